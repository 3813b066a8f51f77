"""Carries out the runs of a comparison for a person, here or in several processes, and writes tables and plots."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fcil.data.progress import waiting
from fcil.engine.comparison import figures
from fcil.engine.following import failure
from fcil.engine.grid import read_grid, run_state, write_grid
from fcil.engine.jobs import Jobs, away, in_process, in_ray_tasks, jobs_of
from fcil.engine.queue import Queue, carry_out_free
from fcil.engine.reuse import Reuse
from fcil.engine.signals import leaving_contexts
from fcil.errors import ConfigError, RunError
from fcil.report.form import form
from fcil.report.grid_runner import LOOK_SECONDS, Runner, say, tell_failure
from fcil.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from fcil.engine.comparison import Cell
    from fcil.loggers import Logger
    from fcil.report.rows import Row

__all__ = ["carry_out_grid", "check_missing", "join_grid"]

EVERYTHING = Reuse()


def _check_begun(runs: Sequence[Cell], run: Runner) -> None:
    """Check that what lies in the folders of runs that have begun are these runs, and draw what they lack.

    Raises:
        ConfigError: a folder holds another run.
    """
    from fcil.engine.simulation import check_same_run

    for cell in runs:
        state = run_state(cell.folder)
        if state == "finished":
            run(cell)
        elif state in ("stopped", "failed"):
            session = cell.session()
            check_same_run(cell.folder, cell.config, session.provenance())


def _tell_replaced(out: Path, runs: Sequence[Cell], console: Console | None) -> None:
    """Say which runs of the folder's comparison so far its tables will no longer have."""
    try:
        there = read_grid(out)
    except ConfigError:  # there is none, or it is damaged and written anew
        return
    folders = {cell.folder for cell in runs}
    if gone := [cell.name for cell in there if cell.folder not in folders]:
        names = "; ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
        say(
            console,
            f"note: the tables of {out} will have the {counted(len(runs), 'run')} of this command alone. What else was "
            f"compared there ({names}) stays, and is in the tables again when a command names it too",
        )


def carry_out_grid(
    out: Path,
    runs: Sequence[Cell],
    jobs: int | None = None,
    console: Console | None = None,
    reuse: Reuse = EVERYTHING,
    loggers: Sequence[Logger] = (),
    on: Literal["here", "ray"] = "here",
    ray_address: str = "",
) -> Mapping[str, Sequence[Row]]:
    """Carry out all runs that are not finished, and write tables and plots; one that fails ends no other.

    Args:
        jobs: processes that share the runs; 1 for this one, 0 for as many as there are cores; by default 1.
        reuse: what runs take from each other.
        loggers: objects that are told of every run, one after another, beside those that `run.log` names.
        on: "ray": as tasks of a Ray cluster, `jobs` at a time, by default as many as it has room for.
        ray_address: of that cluster; empty for the runs' own `run.ray_address`, or a Ray of this machine.

    Returns:
        The rows of the table at each point of the sweep, of those that have a finished run; `check_missing` says of
        which runs they lack.

    Raises:
        ConfigError: a run's folder holds something else: found before any run begins; or objects as loggers with
            several processes, which they cannot go to.
    """
    from fcil.report.comparison import write_comparison
    from fcil.report.published import write_published

    jobs = jobs_of(1 if jobs is None else jobs, runs) if on == "here" else jobs or 0
    if (jobs > 1 or on == "ray") and loggers:
        raise ConfigError(
            "loggers: objects of this process cannot be told of runs in others; use one job here, or name a file, "
            'run.log = ["path/to/my_logger.py"]'
        )
    written = in_ray_tasks(runs) if on == "ray" else in_process(runs) if jobs > 1 else runs
    runs = away(runs) if on == "ray" else written
    with closing(Runner(out, runs, console, reuse, loggers=loggers)) as run:
        run.tell_settings(runs)
        _check_begun(runs, run)
        _tell_replaced(out, written, console)
        write_grid(out, written)
        queue = Queue.of(out, runs)
        if on == "ray":
            _on_ray(out, runs, jobs, console, reuse, ray_address)
        elif jobs > 1:
            _share(out, runs, jobs, console, reuse)
        for outcome in carry_out_free(queue, run) if on == "here" else ():  # also what processes that died have left
            tell_failure(outcome, console)
            write_published(out, runs, figures(runs, queue.summaries()))
    with waiting(console, "drawing, and writing tables"):
        finished = figures(runs, queue.summaries())
        write_published(out, runs, finished)
        return write_comparison(out, finished, _missing(runs)) if finished else {}


def join_grid(out: Path, runs: Sequence[Cell], console: Console | None = None, reuse: Reuse = EVERYTHING) -> None:
    """Carry out runs of a comparison that other processes share, the longest first, until none is free.

    Args:
        reuse: as in `carry_out_grid`.

    Raises:
        RunError: runs failed here.
    """
    queue = Queue.of(out, runs, longest_first=True)
    outcomes = []
    with closing(Runner(out, runs, console, reuse, beside_others=True)) as run:
        run.tell_settings(runs)
        for outcome in carry_out_free(queue, run, wait=False):
            tell_failure(outcome, console)
            outcomes.append(outcome)
    others = len(queue.others())
    say(
        console,
        f"carried out {counted(len(outcomes), 'run')}; other processes work on {others}. Tables: fcil compare {out}",
    )
    if failed := [outcome.cell.name for outcome in outcomes if outcome.summary is None]:
        raise RunError(f"failed: {'; '.join(failed)}")


def _share(out: Path, runs: Sequence[Cell], jobs: int, console: Console | None, reuse: Reuse) -> None:
    """Let several processes carry out the runs; show where all of them stand."""
    from fcil.report.grid_view import Screen

    screen = Screen(runs, console, out)
    number = min(jobs, len(runs) - screen.states.count("finished"))
    with leaving_contexts(), Jobs(out, number, [*reuse.options(), *form().options()]) as processes, screen:
        while processes.running:
            time.sleep(LOOK_SECONDS)
            screen.look()
            for log, code in processes.ended():
                if code not in (0, 1):
                    say(console, f"a process ended with exit code {code}; see {log}", style="red")


def _on_ray(out: Path, runs: Sequence[Cell], most: int, console: Console | None, reuse: Reuse, address: str) -> None:
    """Let a Ray cluster carry out the runs."""
    from fcil.exchange.flower.ray_tasks import RayTasks  # Ray takes seconds to import
    from fcil.report.grid_on_ray import address_of, carry_out_on_ray, check_room

    with leaving_contexts(), closing(RayTasks(address_of(runs, address))) as tasks:
        check_room(tasks, runs)
        carry_out_on_ray(out, runs, tasks, console, reuse, most)


def _missing(runs: Sequence[Cell]) -> dict[str, str]:
    """Run, in words -> why it has no figures, of those that have none."""
    reasons = {}
    for cell in runs:
        state = run_state(cell.folder)
        if state == "failed":
            reasons[cell.name] = f"failed: {failure(cell.folder)}"
        elif state != "finished":
            reasons[cell.name] = state
    return reasons


def check_missing(out: Path, runs: Sequence[Cell]) -> None:
    """Raise RunError where the tables of a comparison lack runs, and say which and why."""
    if missing := _missing(runs):
        lines = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        uses_own_method = any(cell.name in missing and ".py" in cell.config.method.name for cell in runs)
        once = "; a run that had got beyond its first phase when a method's own file was mended has to be deleted first"
        raise RunError(
            f"{len(missing)} of {counted(len(runs), 'run')} without figures:\n{lines}\n"
            f"The same command tries them again, as does `fcil compare {out}`{once if uses_own_method else ''}"
        )
