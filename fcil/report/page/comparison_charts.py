"""The charts of a page of several runs, whose lines know the runs that they are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fcil.report.comparison_plots import curves_of, seconds_points, traffic_points
from fcil.report.cost_plots import Points, accuracy_against_seconds, accuracy_against_traffic
from fcil.report.figure import line_name
from fcil.report.page.charts import Said, chart, inline_svg
from fcil.report.page.parts import charts, scroll_table
from fcil.report.page.subject import Subject
from fcil.report.plots import accuracy_over_tasks, mean_and_std
from fcil.report.rows import Row, setting_text
from fcil.report.sweep_plot import accuracy_in_panels, measured_on, row_titles, same_settings, sweep_panels
from fcil.report.units import percent
from fcil.words import counted

__all__ = ["sweep_charts", "table_charts"]


def table_charts(rows: Sequence[Row], runs: Sequence[Mapping[str, Any]], numbers: Mapping[str, Sequence[int]]) -> str:
    """Draw the charts of one table.

    Args:
        runs: figures of the finished runs that the rows are made of.
        numbers: label of a row -> the numbers of its runs, in their order in `runs`.
    """
    made_of = [numbers[row.label] for row in rows]
    drawn = [_curves(rows, runs, made_of)]
    drawn.append(_cost_chart(accuracy_against_traffic, traffic_points(rows), made_of, "MB", "traffic, up and down"))
    if any(row.untimed < row.runs for row in rows):
        drawn.append(_cost_chart(accuracy_against_seconds, seconds_points(rows), made_of, "s", "time of runs alone"))
    return charts(drawn)


def _all(made_of: Sequence[Sequence[int]]) -> list[int]:
    return sorted({run for runs in made_of for run in runs})


def _curves(rows: Sequence[Row], runs: Sequence[Mapping[str, Any]], made_of: Sequence[Sequence[int]]) -> str:
    """Draw accuracy over tasks: a line for each row, and thin ones for its seeds."""
    curves = curves_of(rows, runs)
    means = {title: mean_and_std(seeds)[0] for title, seeds in curves.items()}
    tasks = max(len(mean) for mean in means.values())
    head = ("method", *(f"task {t + 1}" for t in range(tasks)))
    cells = [[title, *map(percent, mean)] for title, mean in means.items()]
    label = f"lines: accuracy on all classes seen after each of {counted(tasks, 'task')}, mean over seeds; at last"
    said = [
        (f"{title} {percent(mean[-1])} %", runs_of_curve)
        for (title, mean), runs_of_curve in zip(means.items(), made_of, strict=True)
    ]
    lines = {line_name(i): runs_of_curve for i, runs_of_curve in enumerate(made_of)}
    lines |= {
        line_name(i, seed): [run] for i, runs_of_curve in enumerate(made_of) for seed, run in enumerate(runs_of_curve)
    }
    table = scroll_table("accuracy on all classes seen, mean over seeds, %", head, cells, runs=made_of)
    svg = inline_svg(accuracy_over_tasks, curves, label=label, said=said, lines=lines)
    return chart(svg, "accuracy on all classes seen", table, _all(made_of))


def _cost_chart(
    plot: Callable[..., None], points: Points, made_of: Sequence[Sequence[int]], unit: str, cost: str
) -> str:
    """Draw final accuracy against a cost, for the rows that have one."""
    lines = {line_name(i): runs for i, runs in enumerate(made_of)}
    rows = [(*pair, runs) for pair, runs in zip(points.items(), made_of, strict=True) if pair[1][2] > 0]
    cells = [[title, percent(mean), percent(std), f"{amount:.1f}"] for title, (mean, std, amount), _ in rows]
    said = [(f"{c[0]} {c[1]} % for {c[3]} {unit}", runs) for c, (_, _, runs) in zip(cells, rows, strict=True)]
    runs_by_row = [runs for _, _, runs in rows]
    head = ("method", "accuracy, %", "± std, points", f"{cost}, {unit}")
    table = scroll_table(f"final accuracy and {cost}", head, cells, runs=runs_by_row)
    svg = inline_svg(plot, points, label=f"points: final accuracy against {cost}", said=said, lines=lines)
    return chart(svg, f"final accuracy against {cost}", table, _all(runs_by_row))


def sweep_charts(subject: Subject) -> str:
    """Draw final accuracy over each swept setting, once all points of the sweep have figures."""
    comparison = subject.comparison
    whole = all(comparison.tables.get(value) for value in comparison.points)
    if not any(comparison.points.values()) or not whole or not same_settings(comparison.points):
        return ""
    drawn = []
    for setting, values, panels, columns in sweep_panels(comparison.points, comparison.tables):
        labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
        cells, runs_by_curve, lines = list[list[str]](), list[list[int]](), dict[str, list[int]]()
        for number, (title, curves) in enumerate(panels.items()):
            for label, curve in curves.items():
                cells.append([", ".join(filter(None, [title, label])), *(percent(mean) for mean, _ in curve)])
                runs_by_curve.append(_runs_of_a_curve(subject, setting, title, label))
                index = labels.index(label)
                lines[line_name(index, number)] = runs_by_curve[-1]
                lines[line_name(index)] = _all([lines.get(line_name(index), []), runs_by_curve[-1]])
        name = f"final accuracy over {setting}"
        table = scroll_table(f"{name}, %", ("method", *values), cells, runs=runs_by_curve)
        said: Said = [(line[0], runs) for line, runs in zip(cells, runs_by_curve, strict=True)]
        description = f"lines: {name} at {', '.join(values)}; the numbers are in the table below, of"
        note = measured_on(comparison.tables)
        svg = inline_svg(
            accuracy_in_panels, setting, values, panels, columns, note, label=description, said=said, lines=lines
        )
        drawn.append(chart(svg, name, table, _all(runs_by_curve)))
    return charts(drawn) if drawn else ""


def _runs_of_a_curve(subject: Subject, setting: str, panel: str, label: str) -> list[int]:
    """The numbers of the runs that a curve of `sweep_panels` is made of.

    Its panel is headed by the values of the other settings and its label is the row's title; of a single row it is the
    other way round.
    """
    titles, points = row_titles(subject.comparison.tables), subject.comparison.points.values()
    several = {key for point in points for key in point if len({setting_text(other[key]) for other in points}) > 1}
    others = several - set(setting.split(", "))
    numbers = []
    for number, entry in enumerate(subject.entries):
        if entry.figures:
            swept = entry.figures["swept"]
            values = ", ".join(f"{key} = {setting_text(value)}" for key, value in swept.items() if key in others)
            title = titles[entry.label]
            if (panel, label) in ((values, title), (title, values)):
                numbers.append(number)
    return numbers
