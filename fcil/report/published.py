"""Tables of published figures beside our own: published, ours, the difference, and whether it means anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fcil.engine.comparison import Cell, published_shares, short_titles
from fcil.files import write_atomic
from fcil.report.rows import COLUMNS, Row, any_published, compare_rows
from fcil.report.tables import cells_markdown

__all__ = ["published_cells", "published_markdown", "published_rich", "write_published"]

FILE = "published.md"
HEADS = ["experiment", "published [%]", "ours [%]", "seeds", "difference [points]", "as near as an independent run"]
NO_FIGURE, NOT_RUN = "no figure at hand", "not run yet"


def _line(row: Row) -> list[str]:
    """Format one row; leave out our figure if there is no run, and the paper's if none was published."""
    theirs = NO_FIGURE if row.published is None else f"{100 * row.published:.2f}"
    spread = "" if np.isnan(row.std[0]) else f" ± {100 * row.std[0]:.2f}"
    ours = f"{100 * row.mean[0]:.2f}{spread}" if row.runs else NOT_RUN
    difference = "-" if row.difference is None else f"{100 * row.difference:+.2f}"
    near = "-"
    if row.is_near is not None and row.tolerance is not None:
        near = f"{'yes, within' if row.is_near else 'no, beyond'} ±{100 * row.tolerance:.1f}"
    return [row.label, theirs, ours, str(row.runs), difference, near]


def published_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the heads and lines of the table; no lines where no row has a published figure."""
    return HEADS, [_line(row) for row in rows] if any_published(rows) else []


def published_markdown(rows: Sequence[Row]) -> str:
    """Format the table as Markdown; empty where no row has a published figure."""
    heads, lines = published_cells(rows)
    return cells_markdown(heads, lines) if lines else ""


def published_rich(rows: Sequence[Row]) -> Table | None:
    """Format the table for the terminal; None where no row has a published figure."""
    heads, lines = published_cells(rows)
    if not lines:
        return None
    table = Table(box=None, padding=(0, 1, 0, 0))
    for position, head in enumerate(heads):
        table.add_column(Text(head.replace(" [", "\n[")), justify="right" if position else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _so_far(cells: Sequence[Cell], runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of all that is planned, in its order, those without a finished run too."""
    titles = short_titles(list(dict.fromkeys(cell.label for cell in cells)))
    rows = {row.label: row for row in compare_rows(runs)}
    nothing = (float("nan"),) * len(COLUMNS)
    for cell in cells:
        theirs = published_shares(cell)
        label, shares = titles[cell.label], (theirs["published"], theirs["tolerance"])
        rows.setdefault(label, Row(label, 0, nothing, nothing, 0, 0, *shares))
    return [rows[title] for title in titles.values()]


def write_published(out: Path, cells: Sequence[Cell], done: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of published figures, published.md, as far as runs are done.

    A table of many runs takes days; what is not run yet says so. Nothing is written where no figure is published.

    Args:
        cells: all runs that are planned.
        done: the figures of those that are finished.
    """
    for value in dict.fromkeys(run["value"] for run in done):
        planned = [cell for cell in cells if cell.value == value]
        rows = _so_far(planned, [run for run in done if run["value"] == value])
        if any_published(rows):
            folder = out / value
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / FILE, published_markdown(rows).encode())
