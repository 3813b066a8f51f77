"""The parts of a page that tell of several runs: tables over seeds, charts, differences, and the runs one by one."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from fcil.report.comparison_plots import curves_of, seconds_points, traffic_points
from fcil.report.cost_plots import Points, accuracy_against_seconds, accuracy_against_traffic
from fcil.report.figures_table import figures_cells
from fcil.report.grid_view import HEAD, GridView
from fcil.report.html import Cell, Link
from fcil.report.missing_updates import count_updates
from fcil.report.page.charts import chart, inline_svg
from fcil.report.page.parts import Section, charts, paragraph, scroll_table
from fcil.report.page.subject import Entry, Subject
from fcil.report.paired import differences_cells
from fcil.report.plots import accuracy_over_tasks, mean_and_std
from fcil.report.published import published_cells
from fcil.report.rows import COLUMNS, Column, Row, caption, share_text
from fcil.report.sweep_plot import accuracy_in_panels, sweep_panels
from fcil.report.tables import to_cells
from fcil.report.units import percent

__all__ = ["filter_form", "results_sections", "runs_table", "standing"]

MOST_VALUES = 40
"""Values of a setting that a filter offers; of one with more, each run has its own, and the text field finds them."""


def results_sections(subject: Subject) -> list[Section]:
    """Tell of the finished runs together: a sweep's charts, and tables and charts at each of its points."""
    comparison = subject.comparison
    sections = [Section("Over the swept settings", _sweep(subject))]
    for value, rows in comparison.tables.items():
        runs = [run for run in comparison.figures if run["value"] == value]
        if rows:
            found = comparison.differences[value]
            sections.append(Section(value or "Results", _tables(rows, runs, found) + _charts(rows, runs)))
    return sections


def standing(view: GridView) -> str:
    """Say how many runs are in each state, and of those that are not finished how far each is."""
    standings = view.look()
    lines = [
        view.cells(cell, standing)
        for cell, standing in zip(view.runs, standings, strict=True)
        if standing.state != "finished"
    ]
    return paragraph(view.headline(standings).plain, "state") + scroll_table("runs that are not finished", HEAD, lines)


def _tables(rows: Sequence[Row], runs: Sequence[Mapping[str, Any]], found: Any) -> str:
    """Make the tables that `fcil compare` writes, with the same remarks."""
    facts = [{"method": row.label} for row in rows]
    heads, lines = to_cells(rows)
    parts = [scroll_table("mean and sample standard deviation over seeds", heads, lines, facts=facts)]
    parts.append(paragraph(caption(rows)))
    for name, (head, cells) in (
        ("published figures", published_cells(rows)),
        ("paired differences of final accuracy, seed by seed", differences_cells(found)),
        ("figures by class and client, and storage", figures_cells(runs)),
    ):
        parts.append(scroll_table(name, head, cells, facts=[{"method": line[0]} for line in cells]))
    return "".join(parts)


def _charts(rows: Sequence[Row], runs: Sequence[Mapping[str, Any]]) -> str:
    curves = curves_of(rows, runs)
    means = {title: mean_and_std(seeds)[0] for title, seeds in curves.items()}
    tasks = max(len(mean) for mean in means.values())
    head = ("method", *(f"task {t + 1}" for t in range(tasks)))
    lines = [[title, *map(percent, mean)] for title, mean in means.items()]
    final = ", ".join(f"{title} {percent(mean[-1])} %" for title, mean in means.items())
    said = f"lines: accuracy on all classes seen after each of {tasks} tasks, mean over seeds; at last {final}"
    table = scroll_table("accuracy on all classes seen, mean over seeds, %", head, lines)
    drawn = [chart(inline_svg(accuracy_over_tasks, curves, label=said), "accuracy on all classes seen", table)]
    drawn.append(_cost_chart(accuracy_against_traffic, traffic_points(rows), "MB", "traffic, up and down"))
    if any(row.untimed < row.runs for row in rows):
        drawn.append(_cost_chart(accuracy_against_seconds, seconds_points(rows), "s", "time of runs alone"))
    return charts(drawn)


def _cost_chart(plot: Callable[..., None], points: Points, unit: str, cost: str) -> str:
    known = {title: point for title, point in points.items() if point[2] > 0}
    lines = [[title, percent(mean), percent(std), f"{amount:.1f}"] for title, (mean, std, amount) in known.items()]
    told = ", ".join(f"{title} {mean} % for {amount} {unit}" for title, mean, _, amount in lines)
    head = ("method", "accuracy, %", "± std, points", f"{cost}, {unit}")
    table = scroll_table(f"final accuracy and {cost}", head, lines)
    svg = inline_svg(plot, points, label=f"points: final accuracy against {cost}: {told}")
    return chart(svg, f"final accuracy against {cost}", table)


def _sweep(subject: Subject) -> str:
    comparison = subject.comparison
    if not any(comparison.points.values()) or not all(comparison.tables.get(value) for value in comparison.points):
        return ""
    drawn = []
    for setting, values, panels, columns in sweep_panels(comparison.points, comparison.tables):
        lines = [
            [", ".join(filter(None, [title, label])), *(percent(mean) for mean, _ in curve)]
            for title, curves in panels.items()
            for label, curve in curves.items()
        ]
        name = f"final accuracy over {setting}"
        table = scroll_table(f"{name}, %", ("method", *values), lines)
        said = f"lines: {name} at {', '.join(values)}; the numbers are in the table below"
        drawn.append(chart(inline_svg(accuracy_in_panels, setting, values, panels, columns, label=said), name, table))
    return charts(drawn)


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
        first = Link(entry.label, targets[number]) if targets else entry.label
        lines.append([first, *(entry.facts.get(name, "") for name in names), entry.state, *figures, *lost])
    head += ["missing, updates"] if with_missing else []
    return scroll_table("every run by itself", head, lines, facts=[_facts(entry) for entry in entries])


def _figure(column: Column, figures: Mapping[str, Any]) -> str:
    value = column.value(figures) if figures else None
    return "" if not figures else "-" if value is None else f"{value * column.factor:.{column.digits}f}"


def _facts(entry: Entry) -> dict[str, str]:
    return {**entry.facts, "state": entry.state}


def filter_form(entries: Sequence[Entry]) -> str:
    """Make the fields by which runs and rows are chosen; hidden until the page's script runs."""
    if len(entries) < 2:
        return ""
    facts = [_facts(entry) for entry in entries]
    fields = []
    for name in dict.fromkeys(name for known in facts for name in known):
        values = list(dict.fromkeys(known[name] for known in facts if name in known))
        if 1 < len(values) <= MOST_VALUES:
            choices = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
            select = f'<select name="{escape(name)}"><option value="">all</option>{choices}</select>'
            fields.append(f"<label>{escape(name)}{select}</label>")
    text = '<label>text<input type="search" name="text" placeholder="words in a line"></label>'
    end = '<button type="reset">show all</button><output aria-live="polite"></output>'
    return f'<form data-filters hidden aria-label="choose runs">{text}{"".join(fields)}{end}</form>'
