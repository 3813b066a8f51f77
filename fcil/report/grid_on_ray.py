"""Carries out the runs of a comparison as tasks of a Ray cluster, whose machines all see the comparison's folder.

The folder is the queue here too: a task locks its run, so that others may join, and the driver only says what is next.
It may be killed at any time: Ray then ends its tasks, and the same command goes on with what they have left.
"""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fcil.engine.grid import go_where_it_was_begun, read_grid, run_state
from fcil.engine.jobs import JOBS, RESTARTS, in_ray_tasks
from fcil.engine.queue import PAUSE, Outcome, Queue, carry_out_free, note_failure
from fcil.engine.reuse import Reuse
from fcil.errors import ConfigError, FcilError
from fcil.exchange.shared import Shared
from fcil.report.form import Form, form, written_as
from fcil.report.grid_runner import Runner, say, tell_failure
from fcil.report.grid_view import Screen

if TYPE_CHECKING:
    from rich.console import Console

    from fcil.engine.comparison import Cell
    from fcil.exchange.flower.ray_tasks import Ended

__all__ = ["address_of", "carry_out_one", "carry_out_on_ray", "check_room"]

TASK = "fcil.report.grid_on_ray:carry_out_one"
_shared = Shared(beside_others=True)
"""What runs of one worker process share, one task after another: data and backbone stay loaded."""


class Tasks(Protocol):
    """The tasks of a cluster: `fcil.exchange.flower.ray_tasks.RayTasks`."""

    @property
    def running(self) -> set[str]:
        """Keys of the tasks that have not ended."""

    def room(self, cpus: int, gpus: float) -> int:
        """The number of tasks that fit the cluster's machines at once."""

    def start(self, key: str, function: str, texts: Sequence[str], cpus: int, gpus: float) -> None:
        """Start a task that calls a function with texts."""

    def ended(self, seconds: float) -> list[Ended]:
        """The tasks that have ended, waited for."""


# ---- in a task -------------------------------------------------------------------------------------------------------


def carry_out_one(out: str, name: str, reuse: str, drawn: str) -> str:
    """Carry out one run of the comparison in a folder; called in a Ray task, with texts alone.

    Args:
        out: the comparison's folder.
        name: the run's folder, as `grid.json` names it.
        reuse, drawn: `written` of the driver's `Reuse` and of its `Form`.

    Returns:
        JSON: `machine`, `processor`; and `problem`, why this machine could not carry the run out, if so.
    """
    from rich.console import Console

    from fcil.exchange.processor import processor_kind

    report = {"machine": platform.node(), "processor": processor_kind()}
    try:
        folder = go_where_it_was_begun(Path(out))
        runs = in_ray_tasks(read_grid(folder))
        cell = next(cell for cell in runs if cell.folder == folder / name)
        (folder / JOBS).mkdir(exist_ok=True)
        with open(folder / JOBS / f"{name.replace('/', '+')}.log", "a") as log:
            console = Console(file=log, width=160, highlight=False)
            run = Runner(folder, runs, console, Reuse.read(reuse), shared=_shared)
            with written_as(Form.read(drawn)):
                for outcome in carry_out_free(Queue.of(folder, [cell]), run, wait=False):
                    tell_failure(outcome, console)
    except (FcilError, OSError) as error:  # of this machine: it lacks a file, or sees no such folder
        report["problem"] = str(error)
    return json.dumps(report)


# ---- in the driver ---------------------------------------------------------------------------------------------------


def address_of(runs: Sequence[Cell], address: str) -> str:
    """The address of the cluster: the one given, or that of the runs' settings; empty for a Ray of this machine's own.

    Raises:
        ConfigError: runs name different clusters.
    """
    named = sorted({cell.config.run.ray_address for cell in runs} - {""})
    if not address and len(named) > 1:
        raise ConfigError(f"run.ray_address: the runs name {' and '.join(named)}; choose one with --ray-address")
    return address or (named[0] if named else "")


def _needs(cell: Cell) -> tuple[int, float]:
    """CPUs and share of a GPU of a run."""
    return cell.config.run.threads, cell.config.run.gpus_per_client


def check_room(tasks: Tasks, runs: Sequence[Cell]) -> None:
    """Check that each run fits a machine, and that none names a GPU that its task would not get.

    Raises:
        ConfigError: one does not.
    """
    from fcil.exchange.device import check_gpu_on_ray

    for cell in runs:
        check_gpu_on_ray(cell.config)
    for cpus, gpus in sorted(set(map(_needs, runs))):
        if not tasks.room(cpus, gpus):
            raise ConfigError(
                f"run.threads = {cpus}, run.gpus_per_client = {gpus:g}: no machine of the Ray cluster has as many CPUs "
                "and as much of a GPU for a run; lower one of them, or join another cluster with --ray-address"
            )


class _Driver:
    """Hands out runs and hears how they end."""

    def __init__(self, out: Path, runs: Sequence[Cell], tasks: Tasks, console: Console | None, reuse: Reuse) -> None:
        self.out, self.tasks, self.console, self.reuse = out, tasks, console, reuse
        self.queue = Queue.of(out, runs, longest_first=True)
        self.by_name = {str(cell.folder.relative_to(out)): cell for cell in runs}
        self.begun, self.machines = Counter[Path](), dict[str, str]()
        self.waits = False

    def hand_out(self, most: int) -> None:
        """Start tasks while the cluster has room for more, and fewer than `most` run; 0 for as many as there is."""
        while True:
            taken = {self.by_name[name].folder for name in self.tasks.running}
            cell = self.queue.next(taken)
            if cell is None or (most and len(taken) >= most):
                return
            if len(taken) >= (room := self.tasks.room(*_needs(cell))):
                if not room and not self.waits:
                    cpus, gpus = _needs(cell)
                    what = f"{cpus} CPUs" + (f" and {gpus:g} of a GPU" if gpus else "")
                    say(self.console, f"no machine of the cluster has {what} now; waits for one", style="yellow")
                self.waits = not room
                return
            self.waits = False
            self.begun[cell.folder] += 1
            name = str(cell.folder.relative_to(self.out))
            texts = [str(self.out.resolve()), name, self.reuse.written(), form().written()]
            self.tasks.start(name, TASK, texts, *_needs(cell))

    def hear(self, ended: Ended) -> None:
        """Note how a task has ended; one that left its run free is started again, a few times."""
        cell = self.by_name[ended.key]
        reason = ended.reason
        if ended.text is not None:
            report = json.loads(ended.text)
            self._compare(report["machine"], report["processor"])
            reason = f"on {report['machine']}: {report['problem']}" if "problem" in report else ""
        if run_state(cell.folder) in ("finished", "failed", "running"):  # running: another process was quicker
            return
        if self.begun[cell.folder] > RESTARTS:
            tell_failure(self._given_up(cell, reason), self.console)
        elif reason:
            say(self.console, f"{cell.name}: {reason}; it is started again", style="yellow")

    def _given_up(self, cell: Cell, reason: str) -> Outcome:
        reason = f"its Ray task ended {self.begun[cell.folder]} times without a result, the last time: {reason}"
        note_failure(cell.folder, reason)
        self.queue.done.add(cell.folder)
        return Outcome(cell, None, reason)

    def _compare(self, machine: str, processor: str) -> None:
        """Say so once where machines have unlike processors: rows may then differ in last bits."""
        if processor in self.machines:
            return
        self.machines[processor] = machine
        if len(self.machines) == 2:
            kinds = "; ".join(f"{host}: {kind}" for kind, host in self.machines.items())
            text = f"the cluster has unlike processors ({kinds}), whose last bits may differ"
            say(self.console, text, style="yellow")


def carry_out_on_ray(
    out: Path, runs: Sequence[Cell], tasks: Tasks, console: Console | None, reuse: Reuse, most: int = 0
) -> None:
    """Carry out all runs that are not finished as tasks; wait for those that other processes work on.

    A task whose process or machine is lost is started again, and goes on from the run's last checkpoint; after a few
    times its run has failed. One that fails ends no other.

    Args:
        tasks: of a cluster whose machines see the folder under the same path.
        most: runs at a time; 0 for as many as there is room for.
    """
    driver, screen = _Driver(out, runs, tasks, console, reuse), Screen(runs, console)
    with screen:
        while True:
            driver.hand_out(most)
            if tasks.running:
                for ended in tasks.ended(PAUSE):
                    driver.hear(ended)
            elif driver.queue.next() or driver.queue.others():
                time.sleep(PAUSE)
            else:
                break
            screen.look()
        screen.look()
