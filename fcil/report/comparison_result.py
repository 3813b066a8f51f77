"""A comparison that lies in a folder, as an object: its rows, its runs, and its table in many forms."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from fcil.engine.comparison import figures
from fcil.engine.grid import read_grid
from fcil.report.form import FORMATS
from fcil.report.frames import frame
from fcil.report.html import html_table
from fcil.report.overview import bounds_of, overview_cells, overview_markdown, overview_rich
from fcil.report.paired import Difference, differences, differences_markdown
from fcil.report.published import published_cells, published_markdown, published_rich
from fcil.report.rows import Row, any_published, caption, compare_rows, setting_text
from fcil.report.run_result import Run
from fcil.report.tables import to_cells, to_markdown, to_rich
from fcil.words import counted

__all__ = ["Comparison", "open_comparison"]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several methods with several seeds: mean and sample standard deviation of each figure, and the runs behind them.

    Where runs went without some of their clients' updates, the tables have a column that says how many.
    """

    folder: Path
    tables: Mapping[str, Sequence[Row]]
    """Point of the sweep, `section.key=value` with commas between several -> its rows; without a sweep under ""."""
    runs: tuple[Run, ...]
    """All runs, in the order in which they were carried out."""
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Point of the sweep -> setting -> its value there."""
    figures: Sequence[Mapping[str, Any]] = ()
    """The figures of every run, with its label, seed, point and settings."""

    @property
    def rows(self) -> list[Row]:
        """The table's rows, one for each method; with a sweep, for each point after another."""
        return [row for rows in self.tables.values() for row in rows]

    @property
    def differences(self) -> dict[str, list[Difference]]:
        """Point of the sweep -> final accuracy of every method minus that of every other one, paired by seed."""
        return {value: differences([run for run in self.figures if run["value"] == value]) for value in self.tables}

    @property
    def plots(self) -> list[Path]:
        """The pictures' paths: accuracy over tasks, against traffic and time; with a sweep, those of each point too."""
        folders = [self.folder / value for value in {"", *self.tables}]
        return sorted(path for folder in folders for kind in FORMATS for path in folder.glob(f"*.{kind}"))

    def markdown(self) -> str:
        """Format the table for a README; with a sweep, an overview and one under each point."""
        return self._overview() + "\n".join(
            "\n".join(filter(None, [
                f"**{value}**\n" if value else "", to_markdown(rows), published_markdown(rows),
                differences_markdown(self.differences[value]),
            ]))
            for value, rows in self.tables.items()
        )  # fmt: skip

    @property
    def _compared(self) -> dict[str, Sequence[Row]]:
        """The points of a sweep that have rows, for an overview; none where there is but one."""
        tables = {value: rows for value, rows in self.tables.items() if rows}
        return tables if len(tables) > 1 else {}

    def _overview(self) -> str:
        return (
            f"{overview_markdown(self.points, tables, bounds_of(self.figures))}\n" if (tables := self._compared) else ""
        )

    def to_pandas(self) -> Any:
        """Convert to a DataFrame, a row for each method: shares, bytes and seconds, `<figure>_mean` and `<figure>_std`.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame([
            {
                **{key: setting_text(swept) for key, swept in self.points.get(value, {}).items()},
                "method": row.label, "seeds": row.runs, **row.figures,
                "updates_missing": row.missing, "updates_asked": row.asked,
                **({"published": row.published, "difference": row.difference, "tolerance": row.tolerance,
                    "is_near": row.is_near} if any_published(rows) else {}),
            }
            for value, rows in self.tables.items()
            for row in rows
        ])  # fmt: skip

    def __repr__(self) -> str:
        """Show the tables as text."""
        text = io.StringIO()
        console = Console(file=text, width=120, highlight=False)
        for value, rows in self.tables.items():
            parts = [*([value] if value else []), to_rich(rows), published_rich(rows)]
            console.print(*(part for part in parts if part is not None), sep="\n", markup=False)
        if tables := self._compared:
            console.print(overview_rich(self.points, tables))
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        return "\n".join([f"<Comparison {self.folder}: {counted(len(self.runs), 'run')}>", *lines])

    def _repr_html_(self) -> str:
        """Show a table in a notebook; with a sweep, an overview and one for each point."""
        first = html_table(*overview_cells(self.points, tables)) if (tables := self._compared) else ""
        return first + "".join(
            html_table(". ".join(filter(None, [value or str(self.folder), caption(rows)])), *to_cells(rows))
            + (html_table("published figures", *published_cells(rows)) if any_published(rows) else "")
            for value, rows in self.tables.items()
        )


def open_comparison(folder: Path) -> Comparison:
    """Open the comparison in a folder with what is finished of it; nothing is carried out.

    Raises:
        ConfigError: the folder holds no comparison.
    """
    cells = read_grid(folder)
    runs = tuple(Run(cell.folder) for cell in cells)
    done = figures(cells, {run.folder: run.summary for run in runs if run.finished})
    values = dict.fromkeys(cell.value for cell in cells)
    tables = {value: compare_rows([run for run in done if run["value"] == value]) for value in values}
    return Comparison(folder, tables, runs, {cell.value: dict(cell.point.settings) for cell in cells}, done)
