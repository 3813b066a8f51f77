"""Hands the runs of a comparison to any number of processes: its folder is the queue.

A run that is finished or that another process holds the lock of is left out; all others are taken, those that a killed
process has left too. So processes may be started and ended at any time, on all machines that see the folder.
"""

import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from fcil.engine.comparison import Cell
from fcil.engine.folder_lock import open_locked
from fcil.engine.grid import check_settings_of, run_state
from fcil.engine.records import EVENTS, FAILED, read_summary
from fcil.errors import ConfigError, FcilError, FolderInUse

__all__ = ["PAUSE", "Outcome", "Queue", "carry_out_free", "forget_failure", "note_failure", "reason_of"]

PAUSE = 1.0
"""Seconds between two looks at the runs that other processes work on."""


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its figures, or the reason why it failed."""

    cell: Cell
    summary: dict[str, Any] | None
    reason: str = ""


@dataclass
class Queue:
    """The runs of a comparison as one process sees them."""

    out: Path
    runs: Sequence[Cell]
    since: float = 0.0
    """When this process began, by the clock of the disk: what failed earlier is tried once more."""
    done: set[Path] = field(default_factory=set)
    """Folders of the runs that this process has carried out."""

    @classmethod
    def of(cls, out: Path, runs: Sequence[Cell], longest_first: bool = False) -> "Queue":
        """Look at the comparison in a folder, which must exist.

        Args:
            longest_first: take long runs before short ones, so that several processes end at about the same time.
        """
        with NamedTemporaryFile(dir=out, prefix=".started.") as stamp:
            since = os.fstat(stamp.fileno()).st_mtime
        return cls(out, sorted(runs, key=lambda cell: -sum(cell.work)) if longest_first else runs, since)

    def _failed_again(self, cell: Cell) -> bool:
        """Tell whether a run has failed since this process began, here or in another process."""
        try:
            return (cell.folder / FAILED).stat().st_mtime >= self.since
        except FileNotFoundError:
            return False

    def next(self, taken: Collection[Path] = ()) -> Cell | None:
        """The next run to carry out; None where there is none now.

        One whose clients do what those of a run do that goes on now has time: later it finds their updates computed.

        Args:
            taken: folders of runs that somebody will begin, whose locks are not held yet.
        """
        remaining_runs = [cell for cell in self.runs if cell.folder not in self.done and not self._failed_again(cell)]
        states = {cell.folder: "running" if cell.folder in taken else run_state(cell.folder) for cell in remaining_runs}
        now = {kin for cell in remaining_runs if states[cell.folder] == "running" for kin in cell.kin} - {""}
        free = [cell for cell in remaining_runs if states[cell.folder] not in ("running", "finished")]
        return min(free, key=lambda cell: not now.isdisjoint(cell.kin), default=None)

    def others(self) -> list[Cell]:
        """Runs that other processes work on now."""
        return [c for c in self.runs if c.folder not in self.done and run_state(c.folder) == "running"]

    def summaries(self) -> dict[Path, dict[str, Any]]:
        """Run folder -> the figures of the finished run.

        Raises:
            ConfigError: a folder holds a run with other settings.
        """
        summaries_by_folder = {}
        for cell in self.runs:
            if (summary := read_summary(cell.folder)) is not None:
                check_settings_of(cell.folder, cell.config)  # another process may have carried it out
                summaries_by_folder[cell.folder] = summary
        return summaries_by_folder


def reason_of(error: Exception) -> str:
    """Say why a run failed: a message for people, or the traceback of what is a mistake in code."""
    return str(error) if isinstance(error, FcilError) else "".join(traceback.format_exception(error)).rstrip()


def note_failure(folder: Path, reason: str) -> None:
    """Leave the reason in the run's folder, as far as the disk takes it; not where another process has taken it up."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_locked(folder / EVENTS):
            (folder / FAILED).write_text(reason + "\n")
    except ConfigError:
        pass  # what comes of that attempt counts
    except OSError:
        pass  # the run may have failed for the same reason


def forget_failure(folder: Path) -> None:
    """Delete the reason for which an attempt before this one failed.

    Raises:
        FolderInUse: another process works on the run, whose note it may be.
    """
    if (folder / FAILED).exists():
        with open_locked(folder / EVENTS):
            (folder / FAILED).unlink(missing_ok=True)


def carry_out_free(queue: Queue, run: Callable[[Cell], dict[str, Any]], wait: bool = True) -> Iterator[Outcome]:
    """Carry out one run after another until none is left; yield how each ended. One that fails ends no other.

    Args:
        run: carries out a run, or reads a finished one; returns its figures.
        wait: while other processes work on runs, wait for them, in order to take over what they may leave.

    Raises:
        ConfigError: this process cannot carry out a run: it lacks a file, or the folder holds another run.
    """
    while True:
        cell = queue.next()
        if cell is None:
            if not wait or not queue.others():
                return
            time.sleep(PAUSE)
            continue
        try:
            forget_failure(cell.folder)
            outcome = Outcome(cell, run(cell))
        except FolderInUse:  # another process was quicker
            continue
        except ConfigError:  # of this machine or of what was typed, not of the run: others may carry it out
            raise
        except Exception as error:  # whatever a method's code may raise: it is this run's, and not the others'
            outcome = Outcome(cell, None, reason_of(error))
            note_failure(cell.folder, outcome.reason)
        queue.done.add(cell.folder)
        yield outcome
