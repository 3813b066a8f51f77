"""Log a run to log.csv in its folder: one row for each figure of each phase."""

import csv
from collections.abc import Mapping
from pathlib import Path

from fcil.loggers.base import Logger, RunInfo

__all__ = ["CSV", "CsvFile"]

CSV = "log.csv"
FIELDS = ("step", "task", "round", "name", "value")


class CsvFile(Logger):
    """Append to log.csv: step, task, round, name of the figure, value; final figures have no step."""

    path: Path

    def started(self, run: RunInfo) -> None:
        """Begin the file, or keep of it what the run had done when its newest checkpoint was written."""
        self.path = run.folder / CSV
        rows = []
        if run.done and self.path.exists():
            with open(self.path, newline="") as file:
                rows = [r for r in csv.DictReader(file) if r.get("value") and (r["step"] or "0").isdecimal()]
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in rows if row["step"] and int(row["step"]) <= run.done)

    def _append(self, rows: list[tuple[object, ...]]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a row for each figure."""
        task, number = (figures.get(name, "") for name in ("task", "round"))
        names = [name for name in figures if name not in ("task", "round")]
        self._append([(step, task, number, name, figures[name]) for name in names])

    def finished(self, figures: Mapping[str, float]) -> None:
        """Append a row for each final figure, its step, task and round empty."""
        self._append([("", "", "", f"final/{name}", value) for name, value in figures.items()])
