"""The parts of a page that tell of one run, finished or not; every number is read from its records."""

import numpy as np

from fcil.report.further_figures import further_figures
from fcil.report.html import Cell, Shade
from fcil.report.page.charts import chart, inline_svg
from fcil.report.page.parts import Section, charts, listing, matrix_table, paragraph, scroll_table, shades
from fcil.report.page.phase_parts import diagnostics_part, phases_part
from fcil.report.page.settings_parts import provenance_part, settings_part
from fcil.report.plots import accuracy_over_tasks
from fcil.report.run_result import Run
from fcil.report.tables import run_figures
from fcil.report.units import MEGA, percent
from fcil.scenario.census import Census
from fcil.words import counted

__all__ = ["run_sections"]

MOST_CLIENTS, MOST_REMARKS = 100, 200
"""Clients and remarks that are shown; a line says how many more there are, and where."""


def run_sections(run: Run) -> list[Section]:
    """List everything that the run recorded; leave out empty parts."""
    return [
        Section("Settings and versions", settings_part(run) + provenance_part(run)),
        Section("Figures", _figures(run)),
        Section("Accuracy", _accuracy(run)),
        Section("Accuracy of each class", _classes(run)),
        Section("Who holds which classes", _holders(run)),
        Section("Traffic and time by phase", phases_part(run)),
        Section("Diagnostics", diagnostics_part(run)),
        Section("Remarks", _remarks(run)),
    ]


def _figures(run: Run) -> str:
    if not run.finished:
        sent = f"{run.upload_bytes / MEGA:.2f} / {run.download_bytes / MEGA:.2f} MB"
        return listing("so far", [("traffic up / down", sent), ("seconds in all", f"{run.seconds:.1f} s")])
    return listing("figures of the finished run", run_figures(run.summary) + further_figures(run.summary))


def _percents(matrix: np.ndarray) -> list[list[Shade]]:
    return shades(matrix, np.vectorize(percent, otypes=[str])(matrix)) if matrix.size else []


def _accuracy(run: Run) -> str:
    """Draw accuracy over tasks, and show the matrix as a table."""
    matrix, pooled = run.accuracy, run.accuracies
    if not len(matrix):
        return ""
    tasks = len(matrix)
    rows = [(f"task {t + 1}", percent(matrix[t, t]), percent(matrix[-1, t]), percent(pooled[t])) for t in range(tasks)]
    last = "at the end" if run.finished else "now"
    table = scroll_table(
        "accuracy by task, %", ("task", "when learned", last, "all seen so far after it"), rows
    )  # fmt: skip
    label = (
        f"line: accuracy on all classes seen after each of {counted(tasks, 'task')}, at last {percent(pooled[-1])} %"
    )
    drawn = inline_svg(accuracy_over_tasks, {run.title: pooled}, label=label)
    numbers = [str(t + 1) for t in range(matrix.shape[1])]
    lines = [(f"after task {t}", cells) for t, cells in zip(numbers, _percents(matrix), strict=False)]
    caption, groups = "accuracy on each task (columns) after each task (rows), %", [("", 1), ("task", len(numbers))]
    square = matrix_table(caption, "", numbers, lines, groups)
    return charts([chart(drawn, "accuracy on all classes seen", table), square])


def _groups(census: Census) -> list[tuple[str, int]]:
    return [("", 1), *((f"task {task.index + 1}", task.size) for task in census.tasks)]


def _class_names(run: Run, count: int) -> tuple[list[str], list[tuple[str, int]]]:
    """Name the classes in the order of arrival, and their tasks; by their places where the run did not record them."""
    census = run.census
    if census is None:
        return [f"class {c + 1}" for c in range(count)], []
    groups = [("", 1), *((f"task {task.index + 1}", task.size) for task in census.tasks if task.seen <= count)]
    return list(census.classes[:count]), groups if sum(size for _, size in groups) == count + 1 else []


def _classes(run: Run) -> str:
    matrix = run.class_accuracy
    if not matrix.size:
        return ""
    names, groups = _class_names(run, matrix.shape[1])
    rows = [(f"after task {t + 1}", cells) for t, cells in enumerate(_percents(matrix))]
    return matrix_table("accuracy of each class (columns) after each task (rows), %", "", names, rows, groups)


def _holders(run: Run) -> str:
    """Show the training images of every client by class; by task where the clients keep their classes to themselves."""
    census = run.census
    if census is None:
        return paragraph("Not recorded: the run was begun with an earlier version of fcil.")
    if census.by_class is None:
        counts, names, groups = census.train.T, [f"task {t + 1}" for t in range(len(census.train))], []
    else:
        count = census.tasks[-1].seen
        counts, names, groups = census.by_class[:, :count], list(census.classes[:count]), _groups(census)
    shown = counts[:MOST_CLIENTS].astype(float)
    of = "class" if census.by_class is not None else "task"
    rows = [(f"client {k}", line) for k, line in enumerate(shades(shown, shown.astype(int), float(counts.max())))]
    table = matrix_table(f"training images of each client (rows) by {of} (columns)", "", names, rows, groups)
    more = len(counts) - len(shown)
    note = f"{counted(more, 'more client')} not shown; census.json in the run folder has all." if more > 0 else ""
    return table + paragraph(note) + _client_figures(run, counts)


def _client_figures(run: Run, counts: np.ndarray) -> str:
    """Show how many images every client has, and its accuracy on classes in its own proportions where that is known."""
    accuracies = run.summary.get("client_accuracy") or [None] * len(counts)
    pairs = list(zip(counts.sum(1), accuracies, strict=True))[:MOST_CLIENTS]
    highest = max(int(counts.sum(1).max()), 1)
    rows: list[list[Cell]] = [
        [f"client {k}", Shade(f"{images:,}", images / highest, "bar"),
         "-" if accuracy is None else Shade(percent(accuracy), accuracy, "bar")]
        for k, (images, accuracy) in enumerate(pairs)
    ]  # fmt: skip
    head = ("client", "training images", "accuracy on its own shares of the classes, %")
    return scroll_table("clients", head, rows)


def _remarks(run: Run) -> str:
    """List what was refused, filtered out or warned of, and what methods chose."""
    lines: list[tuple[str, str]] = []
    for event in run.events:
        place = f"task {event['task'] + 1}, round {event['round']}" if "task" in event else "run"
        if event["event"] in ("refused", "filtered"):
            lines.append((place, f"client {event['client']} {event['event']}: {event['reason']}"))
        elif event["event"] == "warning":
            lines.append((place, f"warning: {event['reason']}"))
        lines += [(place, f"chosen: {name} {text}") for name, text in event.get("notes", {}).items()]
    more = len(lines) - MOST_REMARKS
    note = f"{more} more are not shown; metrics.jsonl in the run folder has all." if more > 0 else ""
    return listing("what happened beside the plan", lines[:MOST_REMARKS]) + paragraph(note)
