"""Make tables of one run and of a comparison: for the terminal, and as CSV, Markdown and LaTeX."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from inspect import cleandoc
from typing import Any, Literal

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.engine.metrics import accuracy_matrix, pooled_accuracies
from fcil.options import Described
from fcil.report.further_figures import further_figures
from fcil.report.missing_updates import count_updates, missing_updates_text
from fcil.report.units import MEGA, percent

__all__ = [
    "Row", "any_published", "caption", "cells_markdown",
    "compare_rows", "method_table", "percent", "run_figures", "run_table",
    "setting_text", "to_cells", "to_csv", "to_latex", "to_markdown", "to_rich", "unlike_settings",
]  # fmt: skip


def setting_text(value: object) -> str:
    """Format a setting's value as in TOML, a word without its quotes; empty for None.

    >>> setting_text([6, 9]), setting_text(True), setting_text("class")
    ('[6,9]', 'true', 'class')
    """
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, separators=(",", ":"), default=str)


def _share(missing: int, asked: int) -> str:
    return f"{missing} of {asked}" if asked else str(missing)


def run_table(summary: Mapping[str, Any], correct: Sequence[Sequence[int]], total: Sequence[int]) -> Group:
    """Show the results of a run: accuracy per task, then the overall figures. Shares are shown in percent."""
    tasks = Table(
        "task", "when learned", "at the end", "all seen so far", box=None, title="accuracy [%]", title_justify="left"
    )
    for column in tasks.columns[1:]:
        column.justify = "right"
    matrix, pooled = accuracy_matrix(correct, total), pooled_accuracies(correct, total)
    for t, seen in enumerate(pooled):
        tasks.add_row(str(t + 1), percent(matrix[t, t]), percent(matrix[-1, t]), percent(seen))
    figures = Table(box=None, show_header=False)
    figures.add_column()
    figures.add_column(justify="right")
    for name, value in run_figures(summary):
        figures.add_row(name, value)
    further = Table(box=None, show_header=False, title="classes, clients, storage", title_justify="left")
    further.add_column()
    further.add_column(justify="right")
    for name, value in further_figures(summary):
        further.add_row(Text(name), Text(value))
    if summary.get("refused"):
        figures.add_row(Text("updates refused or missing", "bold"), _share(*count_updates([summary])))
    if summary.get("filtered"):
        figures.add_row(Text("updates filtered out", "bold"), _share(summary["filtered"], summary.get("asked", 0)))
    return Group(tasks, Text(), figures, Text(), further)


def run_figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the figures of a finished run beside its accuracies by task: name, value with its unit."""
    seconds, memory = summary["seconds"], summary.get("peak_memory_bytes")
    mean, worst = (summary.get(f"site_accuracy_{which}") for which in ("mean", "worst"))
    return [
        ("final accuracy, pooled", f"{percent(summary['final_accuracy'])} %"),
        ("final accuracy, mean over tasks", f"{percent(summary['final_accuracy_task_mean'])} %"),
        *(
            [("final accuracy at the sites, mean / worst", f"{percent(mean)} / {percent(worst)} %")]
            if mean is not None
            else []
        ),
        ("average incremental accuracy", f"{percent(summary['average_accuracy'])} %"),
        ("forgetting", f"{percent(summary['forgetting'])} points"),
        ("traffic up / down", f"{summary['upload_bytes'] / MEGA:.2f} / {summary['download_bytes'] / MEGA:.2f} MB"),
        ("seconds with clients (training, Grams)", f"{seconds.get('clients', 0):.1f} s"),
        ("seconds merging", f"{seconds.get('merging', 0):.2f} s"),
        ("seconds in evaluation", f"{seconds.get('evaluation', 0):.1f} s"),
        ("seconds in all", f"{seconds.get('total', 0):.1f} s"),
        *([("memory of a worker at its peak", f"{memory / MEGA:.0f} MB")] if memory else []),
    ]


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
UNTIMED = "Time: of runs that were not resumed and took nothing that others had computed."
"""Caption of a table of which some runs have no time of their own."""
HELD_OUT = "Accuracy on training images that were held out, not on test images."
"""Caption of a table with data.held_out."""
NOT_ALONE = ("reused", "cached", "resumed")
"""Entries of a summary by which a run took less time than it takes alone."""


def _own_seconds(run: Mapping[str, Any]) -> float | None:
    """The seconds that a run took; None where it was resumed, or took what another run had computed."""
    return None if any(run.get(name) for name in NOT_ALONE) else run["seconds"]["total"]


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a method's figures over its seeds."""

    label: str
    runs: int
    mean: tuple[float, ...]
    """One per column, in the summary's units; NaN where the method has no such figure."""
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
            text = "-" if np.isnan(mean) else f"{mean * column.factor:.{column.digits}f}"
            spread = "" if np.isnan(std) else f" {plus_minus} {std * column.factor:.{column.digits}f}"
            shown.append(text + spread)
        return [self.label, str(self.runs), *shown, *([_share(self.missing, self.asked)] if with_missing else [])]


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
    """Name the settings that rows have different values of although the file sets one for all; empty if there are none.

    A row has another value where it says so, or where it runs another method than the one that the file sets it for.
    """
    parts = []
    for name in dict.fromkeys(name for row in rows for name in row.common):
        labels: dict[str, list[str]] = {}
        for row in rows:
            if name in row.common:
                labels.setdefault(setting_text(row.common[name]), []).append(row.label)
        if len(labels) > 1:
            values = [f"{value} ({', '.join(who)})" for value, who in labels.items()]
            parts.append(f"{name} = {', '.join(values)}")
    return f"Settings that rows do not share: {'; '.join(parts)}." if parts else ""


def caption(rows: Sequence[Row]) -> str:
    """What a reader of the table has to know: settings that rows do not share, and runs without a time of their own."""
    parts = [
        HELD_OUT if any(row.held_out for row in rows) else "",
        unlike_settings(rows),
        UNTIMED if any(row.untimed for row in rows) else "",
        _tuning(rows),
    ]
    return " ".join(filter(None, parts))


def _tuning(rows: Sequence[Row]) -> str:
    """Say how settings were chosen, where any row's were: then readers have to know of which rows they were not."""
    if not any(row.tuned for row in rows):
        return ""
    said = [f"{row.label} {row.tuned or 'not'}" for row in rows]
    return f"Tuned: {'; '.join(said)}."


def _any_missing(rows: Sequence[Row]) -> bool:
    """Tell whether any update is missing: only then do tables have a column for it."""
    return any(row.missing for row in rows)


def _heads(with_missing: bool) -> list[str]:
    last = ["missing [updates]"] if with_missing else []
    return ["method", "seeds", *(f"{c.head} [{c.unit}]" for c in COLUMNS), *last]


def to_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the heads and lines of a table of any form."""
    return _heads(_any_missing(rows)), [row.cells("±", _any_missing(rows)) for row in rows]


def to_rich(rows: Sequence[Row]) -> Table:
    """Format rows for the terminal, as Text: rich would take the `[s]` of a head or label in markup for a style."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    with_missing = _any_missing(rows)
    for head in _heads(with_missing):
        justify: Literal["left", "right"] = "left" if head == "method" else "right"
        fixed = head.startswith("forgetting")  # as wide as its figures: others wrap on a narrow terminal
        table.add_column(Text(head.replace(" [", "\n[")), justify=justify, overflow="fold", no_wrap=fixed)
    for row in rows:
        table.add_row(*map(Text, row.cells("±", with_missing)))
    if unlike := caption(rows):
        table.caption, table.caption_justify = Text(unlike), "left"
    return table


def to_csv(rows: Sequence[Row]) -> str:
    """Format rows as CSV: numbers of full precision, in the units of the summary (shares, bytes, seconds)."""
    text, with_missing, with_published = io.StringIO(), _any_missing(rows), any_published(rows)
    writer = csv.writer(text, lineterminator="\n")
    heads = ["method", "seeds", *(f"{c.key}_{statistic}" for c in COLUMNS for statistic in ("mean", "std"))]
    heads += ["updates_missing", "updates_asked"] if with_missing else []
    writer.writerow([*heads, *(["published", "difference", "tolerance", "is_near"] if with_published else [])])
    for row in rows:
        pairs = zip(row.mean, row.std, strict=True)
        numbers: list[object] = ["" if np.isnan(n) else repr(n) for pair in pairs for n in pair]
        numbers += [row.missing, row.asked or ""] if with_missing else []
        theirs = (row.published, row.difference, row.tolerance, row.is_near)
        numbers += (
            ["" if n is None else n if isinstance(n, bool) else repr(n) for n in theirs] if with_published else []
        )
        writer.writerow([row.label, row.runs, *numbers])
    return text.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table, with a line on settings that rows do not share below it."""
    unlike = caption(rows)
    return cells_markdown(*to_cells(rows)) + (f"\n{unlike}\n" if unlike else "")


def cells_markdown(heads: list[str], cells: list[list[str]]) -> str:
    """Format heads and lines of text as a Markdown table, the first column aligned left."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *cells]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _escape(text: str) -> str:
    for symbol in "\\&%$#_{}~^":
        if symbol == "\\":
            text = text.replace(symbol, "\0")
        elif symbol in "~^":
            text = text.replace(symbol, rf"\{symbol}{{}}")
        else:
            text = text.replace(symbol, rf"\{symbol}")
    return text.replace("\0", r"\textbackslash{}")


def to_latex(rows: Sequence[Row]) -> str:
    """Format rows as a LaTeX table; needs the package booktabs."""
    heads = _heads(_any_missing(rows))
    body = [" & ".join([_escape(row.label), *row.cells(r"$\pm$", _any_missing(rows))[1:]]) for row in rows]
    head = " & ".join(map(_escape, heads))
    rules = [r"\toprule", rf"{head} \\", r"\midrule", *(rf"{line} \\" for line in body), r"\bottomrule"]
    unlike = caption(rows)
    below = [rf"\par\smallskip{{\footnotesize {_escape(unlike)}}}"] if unlike else []
    return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", *rules, r"\end{tabular}", *below, ""])


def _range(setting: Described) -> str:
    option = setting.option
    bounds = [
        text
        for bound, text in (
            (option.above, f"> {option.above}"), (option.low, f">= {option.low}"), (option.high, f"<= {option.high}")
        )
        if bound is not None
    ]  # fmt: skip
    return ", ".join(bounds)


def _default(value: object) -> str:
    """Write a default as in TOML."""
    if value is MISSING:
        return "required"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def method_table(described: Sequence[Described], doc: str) -> Group:
    """Show a method's docstring and settings: type, default, range, unit, meaning."""
    table = Table("setting", "default", "admits", "meaning", box=None)
    for setting in described:
        admits = " ".join(part for part in (setting.type, _range(setting), setting.option.unit) if part)
        table.add_row(setting.name, Text(_default(setting.default)), Text(admits), Text(setting.option.help))
    return Group(Text(cleandoc(doc)), Text(), table)
