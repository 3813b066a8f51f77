"""Computes the rows of a comparison: each method's figures over its seeds, and what a reader has to know of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fcil.engine.same_settings import doubled
from fcil.engine.summary import NOT_ALONE
from fcil.report.missing_updates import count_updates, missing_updates_text
from fcil.report.units import MEGA

__all__ = [
    "COLUMNS", "Column", "Row", "any_missing", "any_published", "caption", "compare_rows", "notes", "setting_text",
    "share_text", "unlike_settings", "unshared",
]  # fmt: skip


def setting_text(value: object) -> str:
    """Format a setting's value as in TOML, a word without its quotes; empty for None.

    >>> setting_text([6, 9]), setting_text(True), setting_text("class")
    ('[6,9]', 'true', 'class')
    """
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, separators=(",", ":"), default=str)


def share_text(missing: int, asked: int) -> str:
    """Write how many updates are missing, and of how many where that is known."""
    return f"{missing} of {asked}" if asked else str(missing)


@dataclass(frozen=True)
class Column:
    """One column of a comparison: a figure of a run's summary, and how it is shown."""

    key: str
    head: str
    unit: str
    value: Callable[[Mapping[str, Any]], float | None]
    factor: float
    digits: int


COLUMNS = (
    Column("final_accuracy", "final", "%", lambda run: run["final_accuracy"], 100, 1),
    Column("final_accuracy_task_mean", "final, task mean", "%", lambda run: run["final_accuracy_task_mean"], 100, 1),
    Column("average_accuracy", "average", "%", lambda run: run["average_accuracy"], 100, 1),
    Column("forgetting", "forgetting", "points", lambda run: run["forgetting"], 100, 1),
    Column("upload_bytes", "up", "MB", lambda run: run["upload_bytes"], 1 / MEGA, 1),
    Column("download_bytes", "down", "MB", lambda run: run["download_bytes"], 1 / MEGA, 1),
    Column("seconds", "time", "s", lambda run: _own_seconds(run), 1, 0),
)
UNTIMED = "Time: of runs alone, that were not resumed and took nothing that others had computed."
"""Caption of a table of which some runs have no time of their own."""
HELD_OUT = "Accuracy on training images that were held out, not on test images."
"""Caption of a table with data.held_out."""
VALIDATION = "Accuracy on the validation part, not on test images."
"""Caption of a table with data.evaluate_on = "validation"."""


def _own_seconds(run: Mapping[str, Any]) -> float | None:
    """The seconds that a run took; None where it was resumed, or took what another run had computed."""
    return None if any(run.get(name) for name in NOT_ALONE) else run["seconds"]["total"]


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a method's figures over its seeds."""

    label: str
    runs: int
    mean: tuple[float, ...]
    """Mean of each column over seeds, in the summary's units; NaN where the method has no such figure."""
    std: tuple[float, ...]
    """Sample standard deviation over seeds (n - 1); NaN for a single one."""
    missing: int = 0
    """Updates that the runs of all seeds merged without."""
    asked: int = 0
    """Updates that these runs asked for; 0 where that is not known."""
    published: float | None = None
    """Final accuracy that somebody else has published, as a share, where one is at hand."""
    tolerance: float | None = None
    """Difference from it that an independent run may show, as a share."""
    common: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings that the comparison's file sets for all rows, `section.key` -> the value that this row has."""
    held_out: float = 0.0
    """Share of the training images by which accuracy was measured, in place of the test images; 0 for the latter."""
    tuned: str = ""
    """How the row's settings were chosen, where its file says so."""
    untimed: int = 0
    """Runs that took less time than a run alone: resumed ones, and those that took what others had computed."""
    evaluated_on: str = "test"
    """The part that accuracy was measured on."""
    same: str = ""
    """Equal for rows that have the same settings; empty where that is not known."""

    @property
    def title(self) -> str:
        """The label, with the number of updates missing if any is."""
        text = missing_updates_text(self.missing, self.asked)
        return f"{self.label} ({text})" if text else self.label

    @property
    def difference(self) -> float | None:
        """Our final accuracy minus the published one, as a share; None where one of the two is missing."""
        ours = self.mean[0]
        return None if self.published is None or np.isnan(ours) else ours - self.published

    @property
    def is_near(self) -> bool | None:
        """Tell whether the difference lies within the tolerance; None where that is not known."""
        difference = self.difference
        return None if difference is None or self.tolerance is None else abs(difference) <= self.tolerance + 1e-12

    @property
    def figures(self) -> dict[str, float]:
        """`<figure>_mean` and `<figure>_std` of every column, in the summary's units: shares, bytes, seconds."""
        pairs = zip(COLUMNS, self.mean, self.std, strict=True)
        return {f"{c.key}_{what}": n for c, mean, std in pairs for what, n in (("mean", mean), ("std", std))}

    def cells(self, plus_minus: str, with_missing: bool = False) -> list[str]:
        """Text of every column, mean and spread; if `with_missing`, also of the column of updates missing."""
        shown = []
        for column, mean, std in zip(COLUMNS, self.mean, self.std, strict=True):
            digits = column.digits or int(mean * column.factor < 10)  # of runs of seconds "0 ± 0" would say nothing
            text = "-" if np.isnan(mean) else f"{mean * column.factor:.{digits}f}"
            spread = "" if np.isnan(std) else f" {plus_minus} {std * column.factor:.{digits}f}"
            shown.append(text + spread)
        return [self.label, str(self.runs), *shown, *([share_text(self.missing, self.asked)] if with_missing else [])]


def compare_rows(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Compute mean and spread over seeds for every label, in the order of their first run."""
    rows = []
    for label in dict.fromkeys(run["label"] for run in runs):
        label_runs = [run for run in runs if run["label"] == label]
        values = np.array([[c.value(run) for c in COLUMNS] for run in label_runs], np.float64)
        figures = _means(values), _deviations(values)
        untimed = sum(_own_seconds(run) is None for run in label_runs)
        theirs = (label_runs[0].get("published"), label_runs[0].get("tolerance"))
        rows.append(
            Row(
                label,
                len(values),
                *figures,
                *count_updates(label_runs),
                *theirs,
                label_runs[0].get("common", {}),
                label_runs[0].get("settings", {}).get("data.held_out", 0.0),
                label_runs[0].get("tuned", ""),
                untimed,
                label_runs[0].get("settings", {}).get("data.evaluate_on", "test"),
                label_runs[0].get("same", ""),
            )
        )
    return rows


def _means(values: np.ndarray) -> tuple[float, ...]:
    """Mean over seeds of each figure, (seeds, columns), of those that have it; NaN where none has."""
    columns = [column[~np.isnan(column)] for column in values.T]
    return tuple(float(column.mean()) if len(column) else float("nan") for column in columns)


def _deviations(values: np.ndarray) -> tuple[float, ...]:
    """Sample standard deviation over the seeds that have a figure; NaN where fewer than two have."""
    columns = [column[~np.isnan(column)] for column in values.T]
    return tuple(float(column.std(ddof=1)) if len(column) > 1 else float("nan") for column in columns)


def any_published(rows: Sequence[Row]) -> bool:
    """Tell whether any row has a published figure: only then is there a table of them."""
    return any(row.published is not None for row in rows)


def unlike_settings(rows: Sequence[Row]) -> str:
    """Name the settings of `unshared` that the rows of a table have."""
    return unshared([(row.label, row.common) for row in rows])


def unshared(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Name the settings that rows have different values of although the file sets one for all; empty if there are none.

    A row has another value where it says so, or where it runs another method than the one that the file sets it for.

    Args:
        rows: the label of each, and the settings that the file sets for all rows with the value that this one has.
    """
    parts = []
    for name in dict.fromkeys(name for _, common in rows for name in common):
        labels: dict[str, list[str]] = {}
        for label, common in rows:
            if name in common:
                labels.setdefault(setting_text(common[name]), []).append(label)
        if len(labels) > 1 and not all(who == [value] for value, who in labels.items()):  # but for rows' own names
            values = [f"{value} ({', '.join(who)})" for value, who in labels.items()]
            parts.append(f"{name} = {', '.join(values)}")
    return f"Settings that rows do not share: {'; '.join(parts)}." if parts else ""


def caption(rows: Sequence[Row]) -> str:
    """Say what a reader has to know of a table: unlike settings, held-out images, runs without times of their own."""
    return " ".join(filter(None, [*notes(rows), _untimed(rows)]))


def notes(rows: Sequence[Row]) -> list[str]:
    """Say what a reader has to know of accuracies: on which images, of which settings, and how these were chosen."""
    same = [f"{note}." for note in doubled((row.label, row.same) for row in rows if row.same)]
    return list(filter(None, [_held_out(rows), *same, unlike_settings(rows), _tuning(rows)]))


def _held_out(rows: Sequence[Row]) -> str:
    """Say of which rows the accuracy is not on test images."""
    notes = []
    for text, labels in (
        (HELD_OUT, [row.label for row in rows if row.held_out]),
        (VALIDATION, [row.label for row in rows if row.evaluated_on == "validation"]),
    ):
        if labels:
            notes.append(text if len(labels) == len(rows) else f"{', '.join(labels)}: {text[0].lower()}{text[1:]}")
    return " ".join(notes)


def _untimed(rows: Sequence[Row]) -> str:
    """Say of how many of their runs rows tell the time, where that is not of all."""
    fewer = [f"{row.label} {row.runs - row.untimed} of {row.runs}" for row in rows if 0 < row.untimed < row.runs]
    if not any(row.untimed for row in rows):
        return ""
    return UNTIMED if not fewer else f"{UNTIMED.rstrip('.')} ({', '.join(fewer)})."


def _tuning(rows: Sequence[Row]) -> str:
    """Say how settings were chosen, where any row's were: then readers have to know of which rows they were not."""
    if not any(row.tuned for row in rows):
        return ""
    labels: dict[str, list[str]] = {}
    for row in rows:
        labels.setdefault(row.tuned, []).append(row.label)
    untuned = labels.pop("", [])
    notes = [f"Tuned {how}: {', '.join(rows_of_kind)}." for how, rows_of_kind in labels.items()]
    return " ".join([*notes, *([f"Not tuned: {', '.join(untuned)}."] if untuned else [])])


def any_missing(rows: Sequence[Row]) -> bool:
    """Tell whether any update is missing: only then do tables have a column for it."""
    return any(row.missing for row in rows)
