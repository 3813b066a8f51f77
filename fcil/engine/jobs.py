"""Starts processes that share the runs of a comparison on this machine, and ends them whatever happens."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fcil.config import Config
from fcil.engine.comparison import Cell
from fcil.engine.folder_lock import is_locked, open_locked
from fcil.threads import cores

__all__ = ["JOBS", "RESTARTS", "Jobs", "alive", "away", "in_process", "in_ray_tasks", "jobs_of"]

JOBS = "jobs"
"""Name of the folder, in that of a comparison, with the processes' logs."""
_END_SECONDS = 15.0
RESTARTS = 3
"""How many processes that were killed are replaced."""


def jobs_of(number: int, runs: Sequence[Cell]) -> int:
    """Return the number of processes to start; for 0 as many as there are cores for the runs' threads."""
    return number or max(1, cores() // max(cell.config.run.threads for cell in runs))


def in_process(runs: Sequence[Cell]) -> list[Cell]:
    """The runs with clients that train one after the other in the run's process, in the same bits.

    Several runs at a time fill a machine by themselves: each with a Ray of its own would ask for all cores again. Those
    that join a Ray cluster stay as they are.
    """
    return [cell if cell.config.run.ray_address else replace(cell, config=_inline(cell.config)) for cell in runs]


def in_ray_tasks(runs: Sequence[Cell]) -> list[Cell]:
    """The runs as tasks of a Ray cluster carry them out: with clients that train one after the other, in the same bits.

    A task that started workers of its own would wait for room that it takes up itself.
    """
    return [replace(cell, config=_inline(cell.config)) for cell in runs]


def away(runs: Sequence[Cell]) -> list[Cell]:
    """The runs as a process checks them that does not carry them out: their devices are those of Ray's machines.

    Not those with secure sums, which are for one process and have no need of a GPU to be checked.
    """
    return [
        cell if (run := cell.config.run).secure_sums
        else replace(cell, config=replace(cell.config, run=replace(run, exchange="ray")))
        for cell in runs
    ]  # fmt: skip


def _inline(config: Config) -> Config:
    return replace(config, run=replace(config.run, exchange="inline"))


def alive(out: Path) -> int:
    """Count the processes of `--jobs` that share the runs of the comparison in a folder now."""
    return sum(map(is_locked, (out / JOBS).glob("*.log")))


class Jobs:
    """Processes that carry out the runs of one comparison; leaving the context ends those that are left."""

    def __init__(self, out: Path, number: int, options: Sequence[str] = (), command: Sequence[str] = ()) -> None:
        """Name the comparison's folder, the number of processes, and further options of their command.

        Args:
            command: of fcil, for each; by default `compare`, which takes the runs of the folder's grid.
        """
        self.out, self.number = out, number
        self.command = [*(command or ["compare", str(out), "--join"]), *options]
        self.running: dict[Path, subprocess.Popen[bytes]] = {}
        """Log -> the process that writes it."""
        self.started = 0
        self._shift = 0

    def __enter__(self) -> Self:
        (self.out / JOBS).mkdir(exist_ok=True)
        try:
            for _ in range(self.number):
                self._start()
        except BaseException:  # nobody leaves a context that was not entered
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        self.started += 1
        log = self.out / JOBS / f"{self.started}.log"
        while is_locked(log):  # by a process of another command that shares these runs now
            self._shift += 1
            log = self.out / JOBS / f"{self.started + self._shift}.log"
        log.unlink(missing_ok=True)  # that of an earlier command
        command = [sys.executable, "-m", "fcil.cli", *self.command]
        with open_locked(log) as file:  # the process inherits the lock, and holds it as long as it lives
            self.running[log] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def ended(self) -> list[tuple[Path, int]]:
        """Logs and exit codes of the processes that have ended since this was last asked.

        One that a signal ended is replaced; what it worked on goes on from its last checkpoint.
        """
        over = [(log, process.returncode) for log, process in self.running.items() if process.poll() is not None]
        for log, code in over:
            del self.running[log]
            if code < 0 and self.started < self.number + RESTARTS:
                self._start()
        return over

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes that are left."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
