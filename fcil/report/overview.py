"""Make the overview of a sweep: a figure of every method at every value, in the form in which papers print it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.report.rows import COLUMNS, Column, Row, notes, setting_text
from fcil.report.tables import cells_latex, cells_markdown, latex_text

__all__ = ["bounds_of", "overview_cells", "overview_latex", "overview_markdown", "overview_rich"]

SHOWN = {"final_accuracy": max, "average_accuracy": max, "forgetting": min}
"""Figure -> which of its values is the best."""
BEST = "Bold: the best of a column as shown, bounds left out; whether it is more than chance is not said."
MISSING = "*: without some of the clients' updates."
FEWER = "+: fewer seeds than other rows."
Points = Mapping[str, Mapping[str, Any]]
"""Point of the sweep -> setting -> its value there."""
Tables = Mapping[str, Sequence[Row]]
"""Point of the sweep -> its rows."""


def bounds_of(runs: Sequence[Mapping[str, Any]]) -> set[str]:
    """The labels of rows that no federation bounds: one client with all data, or one for each task."""
    return {run["label"] for run in runs if run.get("stream", "federated") != "federated"}


def _heads(points: Points, tables: Tables) -> tuple[str, list[str]]:
    """What is swept over, and the head of each column: the value there, or values in the same order."""
    keys = list(dict.fromkeys(key for name in tables for key in points[name]))
    return ", ".join(keys), [", ".join(setting_text(points[name].get(key)) or "-" for key in keys) for name in tables]


def _lines(tables: Tables, key: str, plus_minus: str, bounds: Collection[str], bold: str) -> Iterator[list[str]]:
    """A line for each method: its label, and mean and spread at each value, `bold` around the best."""
    at, column = next((i, column) for i, column in enumerate(COLUMNS) if column.key == key)
    seeds = max((row.runs for rows in tables.values() for row in rows), default=0)
    best = {}
    for value, rows in tables.items():
        texts = [_shown(row, at, column) for row in rows if row.label not in bounds and not np.isnan(row.mean[at])]
        best[value] = SHOWN[key](texts, key=float, default="")
    for label in dict.fromkeys(row.label for rows in tables.values() for row in rows):
        cells = []
        for value, rows in tables.items():
            row = next((row for row in rows if row.label == label), None)
            text = "-" if row is None else _shown(row, at, column)
            if bold and text != "-" and text == best[value] and label not in bounds:
                text = bold.format(text)
            if row is not None and not np.isnan(row.std[at]):
                text += f" {plus_minus} {row.std[at] * column.factor:.{column.digits}f}"
            cells.append(text + ("*" if row and row.missing else "") + ("+" if row and row.runs < seeds else ""))
        yield [label, *cells]


def _shown(row: Row, at: int, column: Column) -> str:
    return "-" if np.isnan(row.mean[at]) else f"{row.mean[at] * column.factor:.{column.digits}f}"


def _title(key: str, swept: str) -> str:
    column = next(column for column in COLUMNS if column.key == key)
    return f"{column.head} [{column.unit}] by {swept}"


def _caption(tables: Tables, bold: bool) -> str:
    """Say what a reader has to know of an overview."""
    rows = [row for rows in tables.values() for row in rows]
    marks = [MISSING] if any(row.missing for row in rows) else []
    marks += [FEWER] if len({row.runs for row in rows}) > 1 else []
    told = dict.fromkeys(note for rows in tables.values() for note in notes(rows))
    return " ".join([*([BEST] if bold else []), *marks, *told])


def overview_cells(points: Points, tables: Tables) -> tuple[str, list[str], list[list[str]]]:
    """Make the title, heads and lines of the final accuracies as plain text."""
    swept, heads = _heads(points, tables)
    return _title("final_accuracy", swept), ["method", *heads], list(_lines(tables, "final_accuracy", "±", (), ""))


def overview_rich(points: Points, tables: Tables) -> Group:
    """Format the final accuracies for the terminal."""
    title, (first, *heads), lines = overview_cells(points, tables)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    for head in heads:
        table.add_column(Text(head), justify="right", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    below = _caption(tables, bold=False)
    return Group(Text(title, "bold"), table, *([Text(below, "italic")] if below else []))


def overview_markdown(points: Points, tables: Tables, bounds: Collection[str]) -> str:
    """Format the overviews of final and average accuracy and forgetting as Markdown tables, the best in bold."""
    swept, heads = _heads(points, tables)
    parts = [
        f"**{_title(key, swept)}**\n\n"
        + cells_markdown(["method", *heads], list(_lines(tables, key, "±", bounds, "**{}**")))
        for key in SHOWN
    ]
    return "\n".join([*parts, f"{_caption(tables, bold=True)}\n"])


def overview_latex(points: Points, tables: Tables, bounds: Collection[str]) -> str:
    """Format the same as LaTeX tables; they need the package booktabs."""
    swept, heads = _heads(points, tables)
    parts = []
    for key in SHOWN:
        lines = list(_lines(tables, key, r"$\pm$", bounds, r"\textbf{{{}}}"))
        parts.append(cells_latex(["method", *heads], [[latex_text(line[0]), *line[1:]] for line in lines],
                                 _title(key, swept), _caption(tables, bold=True)))  # fmt: skip
    return "\n".join(parts)
