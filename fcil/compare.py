"""Values of a sweep x methods x seeds: the runs of a comparison, re-using finished ones, and its tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcil.config import Config, load_variant, sweep_overrides, variant_names
from fcil.engine import Session, prepare
from fcil.errors import ConfigError
from fcil.metrics import pooled_accuracies
from fcil.records import write_atomic
from fcil.report.plots import accuracy_against_traffic, accuracy_over_tasks
from fcil.report.tables import Row, compare_rows, to_csv, to_latex, to_markdown

__all__ = ["Cell", "cells", "write_comparison"]

MEGA = 1e6


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    seed: int
    folder: Path
    config: Config
    value: str = ""
    """Of the setting that is swept over, `section.key=value`; each has a folder, a table and plots of its own."""

    def session(self) -> Session:
        """Checked and ready."""
        return prepare(self.config, self.folder)


def cells(path: Path, labels: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], out: Path) -> list[Cell]:
    """All runs of a comparison, every one of them checked before the first begins; one value of a sweep after another.

    Args:
        labels: methods, or variants that the file describes under [compare.<label>]; all of those if empty.

    Raises:
        ConfigError: nothing to compare, a doubled label or seed, or settings that one of the runs cannot have.
    """
    labels = list(labels) or variant_names(path)
    if not labels:
        raise ConfigError(f"{path}: nothing to compare; give --methods a,b or describe variants as [compare.<label>]")
    for what, given in (("--methods", labels), ("--seeds", [str(seed) for seed in seeds])):
        if len(set(given)) < len(given):
            raise ConfigError(f"{what} {','.join(given)}: names one twice")
    swept = sweep_overrides(path, overrides)
    made = [
        Cell(
            label,
            seed,
            out / value / f"{label}-seed{seed}",
            load_variant(path, label, [*overrides, *([value] if value else []), f"run.seed={seed}"]),
            value,
        )
        for value in swept or [""]
        for label in labels
        for seed in seeds
    ]
    for cell in made:
        cell.session()
    return made


def carry_out(made: Sequence[Cell], one: Callable[[Cell], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The figures of every run, each with its label."""
    for cell in made:
        yield {**one(cell), "label": cell.label, "seed": cell.seed, "value": cell.value}


def write_comparison(out: Path, runs: Sequence[dict[str, Any]]) -> dict[str, list[Row]]:
    """The tables and plots of each value of a sweep in its folder, and all tables together; the tables' rows.

    Without a sweep there is one table, under the empty value.
    """
    values = list(dict.fromkeys(run["value"] for run in runs))
    tables = {value: _write_table(out / value, [run for run in runs if run["value"] == value]) for value in values}
    if any(values):
        _write_together(out, tables)
    return tables


def _write_together(out: Path, tables: Mapping[str, list[Row]]) -> None:
    """comparison.csv with the value of the sweep as its first column, and comparison.md with a table for each."""
    lines = to_csv([row for rows in tables.values() for row in rows]).splitlines()
    key = next(iter(tables)).partition("=")[0]
    first = [key, *(value.partition("=")[2] for value, rows in tables.items() for _ in rows)]
    csv = "".join(f"{value},{line}\n" for value, line in zip(first, lines, strict=True))
    write_atomic(out / "comparison.csv", csv.encode())
    md = "\n".join(f"**{value}**\n\n{to_markdown(rows)}" for value, rows in tables.items())
    write_atomic(out / "comparison.md", md.encode())


def _write_table(out: Path, runs: Sequence[dict[str, Any]]) -> list[Row]:
    """comparison.csv, .md and .tex, and the plots of accuracy over tasks and against traffic."""
    rows = compare_rows(runs)
    for name, text in (("csv", to_csv(rows)), ("md", to_markdown(rows)), ("tex", to_latex(rows))):
        write_atomic(out / f"comparison.{name}", text.encode())
    curves = {}
    points = {}
    for row in rows:
        mine = [run for run in runs if run["label"] == row.label]
        curves[row.title] = np.stack([pooled_accuracies(run["right"], run["total"]) for run in mine])
        final = [run["final_accuracy"] for run in mine]
        megabytes = [(run["upload_bytes"] + run["download_bytes"]) / MEGA for run in mine]
        std = float(np.std(final, ddof=1)) if len(final) > 1 else 0.0
        points[row.title] = (float(np.mean(final)), std, float(np.mean(megabytes)))
    accuracy_over_tasks(out / "accuracy.png", curves)
    accuracy_against_traffic(out / "traffic.png", points)
    return rows
