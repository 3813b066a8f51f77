"""The parts of a page that tell of several runs: tables over seeds, charts, differences, and the runs one by one."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fcil.report.figures_table import figures_cells
from fcil.report.grid_view import HEAD, GridView
from fcil.report.html import Cell, Link
from fcil.report.missing_updates import count_updates
from fcil.report.page.comparison_charts import sweep_charts, table_charts
from fcil.report.page.parts import Section, paragraph, scroll_table
from fcil.report.page.subject import Entry, Subject
from fcil.report.paired import differences_cells
from fcil.report.published import published_cells
from fcil.report.rows import COLUMNS, Column, Row, caption, share_text
from fcil.report.tables import to_cells

__all__ = ["filter_form", "results_sections", "runs_table", "standing"]

MOST_VALUES = 40
"""Values of a setting that a filter offers; of one with more, each run has its own, and the text field finds them."""


def results_sections(subject: Subject) -> list[Section]:
    """Tell of the finished runs together: a sweep's charts, and tables and charts at each of its points."""
    comparison = subject.comparison
    sections = [Section("Over the swept settings", sweep_charts(subject))]
    for value, rows in comparison.tables.items():
        runs, numbers = [run for run in comparison.figures if run["value"] == value], subject.runs_at(value)
        if rows:
            body = _tables(rows, runs, comparison.differences[value], numbers) + table_charts(rows, runs, numbers)
            sections.append(
                Section(
                    value or "Results", body, sorted(n for numbers_of_row in numbers.values() for n in numbers_of_row)
                )
            )
    return sections


def standing(view: GridView) -> str:
    """Say how many runs are in each state, and of those that are not finished how far each is."""
    standings = view.look()
    open_ones = [number for number, standing in enumerate(standings) if standing.state != "finished"]
    lines = [view.cells(view.runs[number], standings[number]) for number in open_ones]
    table = scroll_table("runs that are not finished", HEAD, lines, runs=[[number] for number in open_ones])
    return paragraph(view.headline(standings).plain, "state") + table


def _tables(
    rows: Sequence[Row], runs: Sequence[Mapping[str, Any]], pairs: Any, numbers: Mapping[str, Sequence[int]]
) -> str:
    """Make the tables that `fcil compare` writes, with the same remarks; a line is made of the runs of its label."""
    heads, lines = to_cells(rows)
    numbers_by_row = [numbers[row.label] for row in rows]
    parts = [scroll_table("mean and sample standard deviation over seeds", heads, lines, runs=numbers_by_row)]
    parts.append(paragraph(caption(rows)))
    for name, (head, cells) in (
        ("published figures", published_cells(rows)),
        ("paired differences of final accuracy, seed by seed", differences_cells(pairs)),
        ("figures by class and client, and storage", figures_cells(runs)),
    ):
        parts.append(scroll_table(name, head, cells, runs=[numbers[line[0]] for line in cells]))
    return "".join(parts)


def runs_table(entries: Sequence[Entry], targets: Sequence[str] = ()) -> str:
    """Make the table of all runs, a line each.

    Args:
        targets: where the name of each run leads to.
    """
    names = list(dict.fromkeys(name for entry in entries for name in entry.facts if name != "method"))
    rows = [entry.figures for entry in entries]
    with_missing = any(count_updates([row])[0] for row in rows if row)
    head = ["method", *names, "state", *(f"{c.head}, {c.unit}" for c in COLUMNS)]
    lines: list[list[Cell]] = []
    for number, entry in enumerate(entries):
        figures = [_figure(column, entry.figures) for column in COLUMNS]
        lost = [share_text(*count_updates([entry.figures])) if entry.figures else ""] if with_missing else []
        spoken = ", ".join([entry.label, *(f"{name} {entry.facts[name]}" for name in names if entry.facts.get(name))])
        first = Link(entry.label, targets[number], spoken) if targets else entry.label
        lines.append([first, *(entry.facts.get(name, "") for name in names), entry.state, *figures, *lost])
    head += ["missing, updates"] if with_missing else []
    facts, numbers_by_row = [_facts(entry) for entry in entries], [[number] for number in range(len(entries))]
    return scroll_table("every run by itself", head, lines, facts=facts, runs=numbers_by_row)


def _figure(column: Column, figures: Mapping[str, Any]) -> str:
    value = column.value(figures) if figures else None
    return "" if not figures else "-" if value is None else f"{value * column.factor:.{column.digits}f}"


def _facts(entry: Entry) -> dict[str, str]:
    return {**entry.facts, "state": entry.state}


def filter_form(entries: Sequence[Entry]) -> str:
    """Make the fields by which runs are chosen, and a line that says which are; hidden until the page's script runs."""
    if len(entries) < 2:
        return ""
    facts = [_facts(entry) for entry in entries]
    fields = []
    for name in dict.fromkeys(name for values_by_name in facts for name in values_by_name):
        values = list(dict.fromkeys(values_by_name[name] for values_by_name in facts if name in values_by_name))
        if 1 < len(values) <= MOST_VALUES:
            choices = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
            select = f'<select name="{escape(name)}"><option value="">all</option>{choices}</select>'
            fields.append(f"<label>{escape(name)}{select}</label>")
    text = '<label>text<input type="search" name="text" placeholder="in method or settings"></label>'
    end = '<button type="reset">show all</button></form><p id="chosen" class="dim" role="status"></p>'
    return f'<form data-filters hidden aria-label="choose runs">{text}{"".join(fields)}{end}'
