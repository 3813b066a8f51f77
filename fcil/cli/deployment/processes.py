"""Starts server processes, each with its log, and ends every one by its id, whatever happens."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fcil.cli.deployment.flwr_command import find
from fcil.errors import RunError

__all__ = ["Processes", "free_port"]

_END_SECONDS = 15.0
_RESIDENTS_SECONDS = 15.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, chosen by the system."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _groups(leaders: Iterable[int]) -> set[int]:
    """The process groups of some processes and of all that they started, theirs too."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True).stdout
    rows = [[int(number) for number in line.split()] for line in listed.splitlines()]
    family, before = set(leaders), -1
    while len(family) != before:
        before = len(family)
        family |= {pid for pid, parent, _ in rows if parent in family}
    return {group for pid, _, group in rows if pid in family} - {os.getpgrp()}


def _is_left(group: int) -> bool:
    """Tell whether a process of a group still exists."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes together, and what they started: Flower's processes end when their parent does, but not at once."""
    groups = _groups(process.pid for process in processes if process.poll() is None)
    for process in processes:
        process.terminate()
    end = time.monotonic() + _END_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    while remaining_groups := [group for group in groups if _is_left(group)]:
        if time.monotonic() > end:
            for group in remaining_groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
        time.sleep(0.05)


class Processes:
    """The processes that were started here; leaving the context ends them, the first one last."""

    def __init__(self, folder: Path) -> None:
        """Keep logs, and each process's folder, in `folder`."""
        self.folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def start(self, name: str, *command: str, env: Mapping[str, str]) -> None:
        """Start a command of Flower's, in a folder of its own and apart from the terminal, whose Ctrl-C is for us."""
        home = self.folder / name
        home.mkdir()
        with open(self.log(name), "wb") as log:
            self._started[name] = subprocess.Popen(
                [find(command[0]), *command[1:]], cwd=home, env={**env, "FLWR_HOME": str(home)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> Path:
        """Name the file to which a process's output goes."""
        return self.folder / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Name -> id of every process that was started here."""
        return {name: process.pid for name, process in self._started.items()}

    def check(self) -> None:
        """Raise RunError where a process has ended by itself."""
        for name, process in self._started.items():
            if process.poll() is not None:
                lines = self.log(name).read_text(errors="replace").strip().splitlines()
                raise RunError(f"{name} ended by itself: {' / '.join(lines[-5:])[-1000:]}")

    def listening(self, name: str, port: int, seconds: float = 60) -> None:
        """Wait until somebody listens on a port.

        Raises:
            RunError: nobody does after `seconds`, or a process has ended.
        """
        end = time.monotonic() + seconds
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise RunError(f"{name} does not listen after {seconds:g} seconds; see {self.log(name)}") from None
                time.sleep(0.1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End every process: ask it to, wait, and kill it if it does not. Another Ctrl-C does not disturb this."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            started = list(self._started.values())
            _end(started[1:])  # nodes say good-bye to their SuperLink, and would try for long if it were gone
            _end(started[:1])
            self._end_residents()
        finally:
            signal.signal(signal.SIGINT, before)

    def _end_residents(self) -> None:
        """Wait until the nodes' resident processes have seen that their node is gone, or end them."""
        from fcil.exchange.flower.resident_start import end_residents  # Flower is slow to import

        end_residents(self.folder / "residents", _RESIDENTS_SECONDS)
