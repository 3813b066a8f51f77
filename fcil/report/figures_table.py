"""Makes the second table of a comparison: figures by class and client, and storage."""

import csv
import io
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import numpy as np

from fcil.report.references import with_references
from fcil.report.rows import Column
from fcil.report.tables import cells_markdown
from fcil.report.units import MEGA

__all__ = ["figures_cells", "figures_csv", "figures_markdown"]

Runs = Sequence[Mapping[str, Any]]


def _share(key: str, head: str, unit: str = "%") -> Column:
    return Column(key, head, unit, lambda run: run.get(key), 100, 1)


def _stored(key: str, head: str) -> Column:
    return Column(key, head, "MB", lambda run: (run.get(key) or [None])[-1], 1 / MEGA, 2)


COLUMNS = (
    _share("old_accuracy", "old classes"),
    _share("new_accuracy", "last task's"),
    _share("base_accuracy", "base"),
    _share("later_accuracy", "later"),
    _share("harmonic_accuracy", "harmonic mean"),
    _share("macro_accuracy", "mean over classes"),
    _share("worst_class_accuracy", "worst class"),
    _share("client_accuracy_mean", "clients, mean"),
    _share("client_accuracy_worst", "worst client"),
    _share("client_accuracy_std", "spread of clients", "points"),
    _share("gap_to_joint", "minus joint training", "points"),
    _share("forward_transfer", "forward transfer", "points"),
    _stored("state_bytes", "server stores"),
    _stored("client_bytes", "clients store"),
)


def _values(runs: Runs) -> dict[str, list[tuple[Column, float, float]]]:
    """Label -> for each column its mean and sample standard deviation over seeds; NaN where a run lacks the figure."""
    rows, runs = {}, with_references(runs)
    for label in dict.fromkeys(run["label"] for run in runs):
        runs_of_label = [run for run in runs if run["label"] == label]
        values = [np.array([column.value(run) for run in runs_of_label], np.float64) for column in COLUMNS]
        rows[label] = [
            (column, float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else nan)
            for column, v in zip(COLUMNS, values, strict=True)
        ]
    return rows


def _text(column: Column, mean: float, std: float) -> str:
    spread = "" if np.isnan(std) else f" ± {std * column.factor:.{column.digits}f}"
    return "-" if np.isnan(mean) else f"{mean * column.factor:.{column.digits}f}{spread}"


def figures_cells(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Make the heads and lines of the table; a column that no row has is left out."""
    rows = _values(runs)
    shown = [i for i in range(len(COLUMNS)) if any(not np.isnan(row[i][1]) for row in rows.values())]
    heads = ["method", *(f"{COLUMNS[i].head} [{COLUMNS[i].unit}]" for i in shown)]
    return heads, [[label, *(_text(*row[i]) for i in shown)] for label, row in rows.items()]


def figures_markdown(runs: Runs) -> str:
    """Format the table as Markdown; a column that no row has is left out."""
    return cells_markdown(*figures_cells(runs))


def figures_csv(runs: Runs) -> str:
    """Format the table as CSV: numbers of full precision, as shares and bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *(f"{c.key}_{what}" for c in COLUMNS for what in ("mean", "std"))])
    for label, row in _values(runs).items():
        numbers = [n for _, mean, std in row for n in (mean, std)]
        writer.writerow([label, *("" if np.isnan(n) else repr(n) for n in numbers)])
    return text.getvalue()
