"""Make tables of one run and of a comparison: for the terminal, and as CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.engine.metrics import accuracy_matrix, pooled_accuracies
from fcil.report.further_figures import further_figures
from fcil.report.missing_updates import count_updates
from fcil.report.rows import COLUMNS, Row, any_missing, any_published, caption, share_text
from fcil.report.units import MEGA, percent

__all__ = [
    "cells_latex", "cells_markdown", "latex_text", "run_figures", "run_table", "to_cells", "to_csv", "to_latex",
    "to_markdown", "to_rich",
]  # fmt: skip


def run_table(summary: Mapping[str, Any], correct: Sequence[Sequence[int]], total: Sequence[int]) -> Group:
    """Show the results of a run: accuracy per task, then the overall figures. Shares are shown in percent."""
    tasks = Table(
        "task", "when learned", "at the end", "all seen so far", box=None, title="accuracy [%]", title_justify="left"
    )
    for column in tasks.columns[1:]:
        column.justify = "right"
    matrix, pooled = accuracy_matrix(correct, total), pooled_accuracies(correct, total)
    for t, accuracy in enumerate(pooled):
        tasks.add_row(str(t + 1), percent(matrix[t, t]), percent(matrix[-1, t]), percent(accuracy))
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
        figures.add_row(Text("updates refused or missing", "bold"), share_text(*count_updates([summary])))
    if summary.get("filtered"):
        figures.add_row(Text("updates filtered out", "bold"), share_text(summary["filtered"], summary.get("asked", 0)))
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


def _heads(with_missing: bool) -> list[str]:
    last = ["missing [updates]"] if with_missing else []
    return ["method", "seeds", *(f"{c.head} [{c.unit}]" for c in COLUMNS), *last]


def to_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the heads and lines of a table of any form."""
    return _heads(any_missing(rows)), [row.cells("±", any_missing(rows)) for row in rows]


def to_rich(rows: Sequence[Row]) -> Table:
    """Format rows for the terminal, as Text: rich would take the `[s]` of a head or label in markup for a style."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    with_missing = any_missing(rows)
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
    text, with_missing, with_published = io.StringIO(), any_missing(rows), any_published(rows)
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


def latex_text(text: str) -> str:
    """Write text with LaTeX's own symbols escaped."""
    for symbol in "\\&%$#_{}~^":
        if symbol == "\\":
            text = text.replace(symbol, "\0")
        elif symbol in "~^":
            text = text.replace(symbol, rf"\{symbol}{{}}")
        else:
            text = text.replace(symbol, rf"\{symbol}")
    return text.replace("\0", r"\textbackslash{}")


def to_latex(rows: Sequence[Row], heading: str = "") -> str:
    """Format rows as a LaTeX table; needs the package booktabs. A heading names the point of a sweep."""
    with_missing = any_missing(rows)
    body = [[latex_text(row.label), *row.cells(r"$\pm$", with_missing)[1:]] for row in rows]
    return cells_latex(_heads(with_missing), body, heading, caption(rows))


def cells_latex(heads: list[str], cells: list[list[str]], heading: str, below: str) -> str:
    """Format heads, lines of LaTeX and texts above and below them as a table, the first column aligned left."""
    head = " & ".join(map(latex_text, heads))
    body = (rf"{' & '.join(line)} \\" for line in cells)
    rules = [r"\toprule", rf"{head} \\", r"\midrule", *body, r"\bottomrule"]
    last = [rf"\par\smallskip{{\footnotesize {latex_text(below)}}}"] if below else []
    first = [rf"\paragraph{{{latex_text(heading)}}}", ""] if heading else []
    return "\n".join([*first, rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", *rules, r"\end{tabular}", *last, ""])
