"""Write the tables and plots of a comparison (`fcil compare`) into its folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcil.files import write_atomic
from fcil.report.comparison_plots import draw_table_plots
from fcil.report.comparison_result import open_comparison
from fcil.report.figure import drawn_files
from fcil.report.figures_table import figures_csv, figures_markdown
from fcil.report.overview import bounds_of, overview_latex, overview_markdown
from fcil.report.paired import differences, differences_csv, differences_markdown
from fcil.report.published import published_markdown
from fcil.report.rows import Row, compare_rows, setting_text
from fcil.report.run_rows import runs_csv
from fcil.report.sweep_plot import draw_sweep
from fcil.report.tables import to_csv, to_latex, to_markdown
from fcil.words import counted

__all__ = ["draw_again", "write_comparison"]

MISSING = "missing.md"
"""Name of the file that says which runs the tables of a comparison lack."""


def write_comparison(
    out: Path, runs: Sequence[dict[str, Any]], missing: Mapping[str, str] | None = None
) -> dict[str, list[Row]]:
    """Write tables and plots of each point of a sweep into its folder, and the tables together; return their rows.

    Without a sweep there is one table, under the empty name. runs.csv has a row for each run.

    Args:
        missing: run, in words -> why it has no figures; missing.md names them, and is gone when there is none.
    """
    _write_missing(out / MISSING, missing or {})
    points = {run["value"]: run["swept"] for run in runs}
    tables = {value: _write_table(out / value, [run for run in runs if run["value"] == value]) for value in points}
    write_atomic(out / "runs.csv", runs_csv(runs).encode())
    if any(points):
        _write_sweep_tables(out, points, tables, bounds_of(runs))
    return tables


def draw_again(out: Path) -> list[Path]:
    """Draw the plots of a comparison from its records, as far as runs are finished; return the files.

    Raises:
        ConfigError: the folder holds no comparison.
    """
    comparison, drawn = open_comparison(out), list[Path]()
    tables = {value: rows for value, rows in comparison.tables.items() if rows}
    for value, rows in tables.items():
        drawn += draw_table_plots(out / value, rows, [run for run in comparison.figures if run["value"] == value])
    points = {value: comparison.points[value] for value in tables}
    if any(points.values()):
        drawn += draw_sweep(out, points, tables)
    return [file for path in drawn for file in drawn_files(path)]


def _write_missing(path: Path, missing: Mapping[str, str]) -> None:
    """Name the runs that the tables lack, or delete the file that named some before."""
    if not missing:
        path.unlink(missing_ok=True)
        return
    lines = [f"- {name}: {reason}\n" for name, reason in missing.items()]
    write_atomic(path, f"The tables lack {counted(len(missing), 'run')}:\n\n{''.join(lines)}".encode())


def _write_sweep_tables(
    out: Path, points: Mapping[str, Mapping[str, Any]], tables: Mapping[str, Sequence[Row]], bounds: set[str]
) -> None:
    """Write comparison.csv with the swept settings as its first columns, and draw the plots.

    comparison.md and .tex begin with an overview, methods by values, and have the table of every value below it.

    Args:
        points: name -> setting -> value.
        tables: name -> the point's rows.
        bounds: labels of rows that no federation bounds.
    """
    lines = csv.reader(to_csv([row for rows in tables.values() for row in rows]).splitlines())
    keys = list(dict.fromkeys(key for swept in points.values() for key in swept))
    texts = {name: [setting_text(swept[key]) if key in swept else "" for key in keys] for name, swept in points.items()}
    first_columns = [keys, *(texts[name] for name, rows in tables.items() for _ in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([*first, *line] for first, line in zip(first_columns, lines, strict=True))
    write_atomic(out / "comparison.csv", text.getvalue().encode())
    draw_sweep(out, points, tables)
    md = [f"**{value}**\n\n{_markdown(rows)}" for value, rows in tables.items()]
    write_atomic(out / "comparison.md", "\n".join([overview_markdown(points, tables, bounds), *md]).encode())
    tex = [to_latex(rows, heading=value) for value, rows in tables.items()]
    write_atomic(out / "comparison.tex", "\n".join([overview_latex(points, tables, bounds), *tex]).encode())


def _markdown(rows: Sequence[Row]) -> str:
    """The table, and below it that of published figures where rows have any."""
    return "\n".join(filter(None, [to_markdown(rows), published_markdown(rows)]))


def _write_table(out: Path, runs: Sequence[dict[str, Any]]) -> list[Row]:
    """Write comparison.csv, .md and .tex, figures.csv and .md, and draw the plots."""
    rows = compare_rows(runs)
    pairs = differences(runs)
    md = "\n".join(filter(None, [_markdown(rows), differences_markdown(pairs)]))
    for name, text in (("csv", to_csv(rows)), ("md", md), ("tex", to_latex(rows))):
        write_atomic(out / f"comparison.{name}", text.encode())
    write_atomic(out / "differences.csv", differences_csv(pairs).encode())
    for name, text in (("csv", figures_csv(runs)), ("md", figures_markdown(runs))):
        write_atomic(out / f"figures.{name}", text.encode())
    draw_table_plots(out, rows, runs)
    return rows
