"""The protocol of a logger: what it is told of a run, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Logger", "RunInfo"]


@dataclass(frozen=True)
class RunInfo:
    """Describes a run to a logger, when it starts and when it goes on."""

    folder: Path
    """The run folder, where a logger may keep files of its own."""
    name: str
    """The run in words: its folder's path, inside that of its comparison where it belongs to one."""
    group: str = ""
    """The comparison that the run belongs to; empty for a run of its own."""
    id: str = ""
    """A name that no other run has, made when the run's first logger starts; the same when the run is resumed."""
    done: int = 0
    """Phases that this logger was told of before: 0 in a new run, more in one that is resumed."""
    phases: int = 0
    """Phases of the whole run."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """All settings, `section.key` -> value, those of the method with their defaults; and the run's `provenance.*`."""


class Logger:
    """Is told of a run as it goes on; a subclass overrides what it has a use for, and nothing is required.

    The calls of a run: `started`, then for every phase that is saved `event` for each of its events and `figures` once,
    then `finished` where the run ends well, and `closed` in any case. One object may be told of several runs, one after
    another. An exception costs the logger the rest of this run and the user one warning; the run goes on.
    """

    def started(self, run: RunInfo) -> None:
        """Begin to be told of a run, or go on with it where `run.done` is above 0."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in one line of metrics.jsonl."""

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Take in the figures of one phase, by the names of docs/loggers.md.

        Args:
            step: number of phases done, from 1 on.
        """

    def finished(self, figures: Mapping[str, float]) -> None:
        """Take in the figures of the finished run, by the names that summary.json has, `final_accuracy` among them."""

    def closed(self, reason: str) -> None:
        """End, and let go what was opened.

        Args:
            reason: why the run stopped before its end; empty where it is finished.
        """
