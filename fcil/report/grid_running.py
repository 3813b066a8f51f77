"""Carries out the runs of a comparison for a person, here or in several processes, and writes tables and plots."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcil.engine.comparison import figures
from fcil.engine.following import failure
from fcil.engine.grid import run_state, write_grid
from fcil.engine.jobs import Jobs, in_process, jobs_of
from fcil.engine.queue import Outcome, Queue, carry_out_free
from fcil.engine.reuse import Reuse
from fcil.engine.signals import leaving_contexts
from fcil.errors import ConfigError, RunError
from fcil.exchange.memo import MEMO, Memo
from fcil.exchange.shared import FEATURES, Features, Shared
from fcil.report.form import form
from fcil.report.running import carry_out, left_out_settings
from fcil.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from fcil.engine.comparison import Cell
    from fcil.loggers import Logger
    from fcil.report.rows import Row

__all__ = ["carry_out_grid", "check_missing", "join_grid"]

LOOK_SECONDS = 1.0
EVERYTHING = Reuse()


def _say(console: Console | None, *parts: str, style: str = "") -> None:
    if console:
        console.print(*parts, soft_wrap=True, markup=False, style=style)


class _Runner:
    """Carries out runs one after another in this process, which keeps what they have in common."""

    def __init__(
        self,
        out: Path,
        runs: Sequence[Cell],
        console: Console | None,
        reuse: Reuse,
        beside_others: bool = False,
        loggers: Sequence[Logger] = (),
    ) -> None:
        """Keep in the comparison's folder what runs take from each other.

        Args:
            beside_others: whether other processes of the comparison work at the same time.
        """
        kins = Counter(kin for cell in runs for kin in cell.kin if kin)
        self.several = {kin for kin, count in kins.items() if count > 1}
        self.memo = Memo(out / MEMO, reuse.share) if reuse.memo else None
        self.features = Features(out / FEATURES, reuse.share) if reuse.features else None
        self.console, self.loggers, self.shared = console, loggers, Shared(beside_others=beside_others)

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """Carry out a run, or read it when it is finished."""
        _say(self.console, f"{cell.name}: {cell.folder}")
        if note := left_out_settings(cell.config):
            _say(self.console, note)
        phases = frozenset(index for index, kin in enumerate(cell.kin) if kin in self.several)
        self.shared.memo = replace(self.memo, phases=phases) if self.memo and phases else None
        # where a client's error costs its update alone, so would the alarm of a check
        self.shared.features = None if cell.config.run.on_client_error == "skip" else self.features
        try:
            return carry_out(cell.session(self.shared), cell.folder, self.console, self.loggers)
        except BaseException:
            self.shared.close()  # workers among it, which may have been the reason
            raise

    def close(self) -> None:
        """Let go what the runs had in common."""
        self.shared.close()


def _check_begun(runs: Sequence[Cell], run: _Runner) -> None:
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


def carry_out_grid(
    out: Path,
    runs: Sequence[Cell],
    jobs: int = 1,
    console: Console | None = None,
    reuse: Reuse = EVERYTHING,
    loggers: Sequence[Logger] = (),
) -> Mapping[str, Sequence[Row]]:
    """Carry out all runs that are not finished, and write tables and plots; one that fails ends no other.

    Args:
        jobs: processes that share the runs; 1 for this one, 0 for as many as there are cores.
        reuse: what runs take from each other.
        loggers: objects that are told of every run, one after another, beside those that `run.log` names.

    Returns:
        The rows of the table at each point of the sweep, of those that have a finished run; `check_missing` says of
        which runs they lack.

    Raises:
        ConfigError: a run's folder holds something else: found before any run begins; or objects as loggers with
            several processes, which they cannot go to.
    """
    from fcil.report.comparison import write_comparison
    from fcil.report.published import write_published

    jobs = jobs_of(jobs, runs)
    if jobs > 1 and loggers:
        raise ConfigError(
            f"loggers: objects of this process cannot be told of runs in {jobs} others; use jobs=1, or name a file, "
            'run.log = ["path/to/my_logger.py"]'
        )
    runs = in_process(runs) if jobs > 1 else runs
    with closing(_Runner(out, runs, console, reuse, loggers=loggers)) as run:
        _check_begun(runs, run)
        write_grid(out, runs)
        queue = Queue.of(out, runs)
        if jobs > 1:
            _share(out, runs, jobs, console, reuse)
        for outcome in carry_out_free(queue, run):  # with several processes, what those that died have left
            _told(outcome, console)
            write_published(out, runs, figures(runs, queue.summaries()))
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
    with closing(_Runner(out, runs, console, reuse, beside_others=True)) as run:
        for outcome in carry_out_free(queue, run, wait=False):
            _told(outcome, console)
            outcomes.append(outcome)
    others = len(queue.others())
    _say(
        console,
        f"carried out {counted(len(outcomes), 'run')}; other processes work on {others}. Tables: fcil compare {out}",
    )
    if failed := [outcome.cell.name for outcome in outcomes if outcome.summary is None]:
        raise RunError(f"failed: {'; '.join(failed)}")


def _told(outcome: Outcome, console: Console | None) -> None:
    if outcome.summary is None:
        _say(console, f"{outcome.cell.name}: failed. {outcome.reason}", style="red")


def _share(out: Path, runs: Sequence[Cell], jobs: int, console: Console | None, reuse: Reuse) -> None:
    """Let several processes carry out the runs; show where all of them stand."""
    from rich.live import Live

    from fcil.report.grid_view import GridView

    view = GridView(runs, out)
    standings = view.look()
    states = [standing.state for standing in standings]
    moving = Live(console=console, transient=True, auto_refresh=False) if console and console.is_terminal else None
    screen: AbstractContextManager[Any] = moving or nullcontext()
    number = min(jobs, len(runs) - states.count("finished"))
    with leaving_contexts(), Jobs(out, number, [*reuse.options(), *form().options()]) as processes, screen:
        while processes.running:
            time.sleep(LOOK_SECONDS)
            standings = view.look()
            for cell, standing, before in zip(runs, standings, states, strict=True):
                if standing.state != before and standing.state in ("finished", "failed"):
                    _say(console, view.line(cell, standing))
            states = [standing.state for standing in standings]
            for log, code in processes.ended():
                if code not in (0, 1):
                    _say(console, f"a process ended with exit code {code}; see {log}", style="red")
            if moving:
                moving.update(view.draw(standings), refresh=True)


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
        told = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        raise RunError(
            f"{len(missing)} of {counted(len(runs), 'run')} without figures:\n{told}\n"
            f"The same command tries them again, as does `fcil compare {out}`"
        )
