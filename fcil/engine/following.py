"""Follows runs by their event logs, also those of other processes: how far each is, and how long it will take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcil.engine.comparison import Cell
from fcil.engine.grid import RunState, run_state
from fcil.engine.records import EVENTS, FAILED, read_summary

__all__ = ["Follower", "Standing", "failure"]


@dataclass(frozen=True)
class Standing:
    """The standing of a run: its state, and how far it is."""

    state: RunState
    share: float = 0.0
    """Share of its work that is done."""
    place: str = ""
    """Task and round that it is at; or why it failed."""
    accuracy: float | None = None
    """Accuracy on all classes seen, at the last evaluation."""
    seconds: float = 0.0
    """Seconds that the phases done have taken."""
    images: float = 0.0
    """Images that clients have trained on."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest will take at the pace so far; None before there is one."""
        return self.seconds * (1 - self.share) / self.share if self.share and self.seconds else None


def failure(folder: Path) -> str:
    """The line that says why a run failed; empty where it is being tried again.

    A message for people begins with it; a bare traceback ends with it.
    """
    try:
        lines = (folder / FAILED).read_text(errors="replace").strip().splitlines() or [""]
    except FileNotFoundError:
        return ""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


@dataclass
class Follower:
    """Reads what is new in a run's event log at every look."""

    cell: Cell
    _offset: int = 0
    _line: bytes = b""
    """The last line that was read, which is still there unless the log was cut back."""
    _done: int = 0
    _seconds: float = 0.0
    _images: float = 0.0
    _accuracy: float | None = None
    _last: Mapping[str, Any] = field(default_factory=dict)

    def look(self) -> Standing:
        """Say where the run stands now."""
        folder = self.cell.folder
        state = run_state(folder)
        if state == "finished":
            summary = read_summary(folder) or {}
            seconds = summary.get("seconds", {}).get("total", 0.0)
            return Standing(state, 1.0, "", summary.get("final_accuracy"), seconds, summary.get("images", 0))
        if state == "failed":
            return Standing(state, place=failure(folder))
        self._read(folder / EVENTS)
        work = self.cell.work
        share = sum(work[: self._done]) / sum(work) if sum(work) else 0.0
        return Standing(state, share, self._place(), self._accuracy, self._seconds, self._images)

    def _place(self) -> str:
        if not self._last:
            return ""
        kind = "report" if self._last.get("kind") == "report" else f"round {self._last['round']}"
        return f"task {self._last['task'] + 1}, {kind}"

    def _read(self, path: Path) -> None:
        """Take in the whole lines that were added; all of them again where the log was cut back."""
        try:
            with open(path, "rb") as file:
                file.seek(max(0, self._offset - len(self._line)))
                if file.read(len(self._line)) != self._line:
                    self._start_over()
                    file.seek(0)
                new = file.read()
        except FileNotFoundError:
            return
        lines = new[: new.rfind(b"\n") + 1].splitlines(keepends=True)
        try:
            for line in lines:
                self._take(json.loads(line))
        except (ValueError, KeyError):  # cut back while it was read
            return self._start_over()
        self._offset += sum(map(len, lines))
        self._line = lines[-1] if lines else self._line

    def _start_over(self) -> None:
        self._offset, self._line, self._done, self._last = 0, b"", 0, {}
        self._seconds, self._images, self._accuracy = 0.0, 0.0, None

    def _take(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "phase":
            self._last = event
        elif event["event"] == "client":
            self._images += event.get("images", 0)
        elif event["event"] == "clients":
            self._images += event["sums"].get("images", 0)
        elif event["event"] == "merged":
            self._done = event["phase"] + 1
            self._seconds += event["seconds_clients"] + event["seconds_merge"]
        elif event["event"] in ("task", "round"):
            self._accuracy = event["accuracy"]
            self._seconds += event["seconds"]
