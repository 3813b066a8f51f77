"""The parts of a page that tell of one run, finished or not; every number is read from its records."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fcil.merging.similarity import TOP
from fcil.report.diagnostics import intruders_by_kind, read_diagnostics
from fcil.report.further_figures import further_figures
from fcil.report.html import Cell, Shade
from fcil.report.page.charts import chart, inline_svg
from fcil.report.page.parts import Section, charts, listing, matrix_table, paragraph, scroll_table, shades
from fcil.report.page.settings_parts import provenance_part, settings_part
from fcil.report.plots import accuracy_over_tasks
from fcil.report.run_result import Run
from fcil.report.tables import run_figures
from fcil.report.units import MEGA, percent
from fcil.scenario.census import Census

__all__ = ["phase_name", "run_sections"]

MOST_CLIENTS, MOST_REMARKS = 100, 200
"""Clients and remarks that are shown; a line says how many more there are, and where."""


def run_sections(run: Run) -> list[Section]:
    """Tell all that a run recorded; what it has nothing of is left out."""
    return [
        Section("Settings and versions", settings_part(run) + provenance_part(run)),
        Section("Figures", _figures(run)),
        Section("Accuracy", _accuracy(run)),
        Section("Accuracy of each class", _classes(run)),
        Section("Who holds which classes", _holders(run)),
        Section("Traffic and time by phase", _phases(run)),
        Section("Diagnostics", _diagnostics(run)),
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
    said = f"line: accuracy on all classes seen after each of {tasks} tasks, at last {percent(pooled[-1])} %"
    drawn = inline_svg(accuracy_over_tasks, {run.title: pooled}, label=said)
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
        seen = census.tasks[-1].seen
        counts, names, groups = census.by_class[:, :seen], list(census.classes[:seen]), _groups(census)
    shown = counts[:MOST_CLIENTS].astype(float)
    of = "class" if census.by_class is not None else "task"
    rows = [(f"client {k}", line) for k, line in enumerate(shades(shown, shown.astype(int), float(counts.max())))]
    table = matrix_table(f"training images of each client (rows) by {of} (columns)", "", names, rows, groups)
    more = len(counts) - len(shown)
    note = f"{more} more clients are not shown; census.json in the run folder has all." if more > 0 else ""
    return table + paragraph(note) + _client_figures(run, counts)


def _client_figures(run: Run, counts: np.ndarray) -> str:
    """Show how many images every client has, and its accuracy on classes in its own proportions where that is known."""
    accuracies = run.summary.get("client_accuracy") or [None] * len(counts)
    pairs = list(zip(counts.sum(1), accuracies, strict=True))[:MOST_CLIENTS]
    highest = max(int(counts.sum(1).max()), 1)
    rows: list[list[Cell]] = [
        [f"client {k}", Shade(f"{images:,}", images / highest, "bar"),
         "-" if own is None else Shade(percent(own), own, "bar")]
        for k, (images, own) in enumerate(pairs)
    ]  # fmt: skip
    head = ("client", "training images", "accuracy on its own shares of the classes, %")
    return scroll_table("clients", head, rows)


def _phases(run: Run) -> str:
    """Show every phase that is done: who took part, bytes and seconds."""
    asked: dict[int, Mapping[str, Any]] = {}
    done: list[dict[str, Any]] = []
    evaluated: dict[int, float] = {}
    for event in run.events:
        if event["event"] == "phase":
            asked[event["phase"]] = event
        elif event["event"] == "merged":
            done.append({**asked[event["phase"]], **event})
        elif event["event"] in ("task", "round"):
            evaluated[event["phase"]] = event["seconds"]
    lines = [_phase(phase, evaluated.get(phase["phase"])) for phase in done]
    if not lines:
        return ""
    numbers = np.array([[np.nan if n is None else n for n in line[2]] for line in lines])
    highest = [column[np.isfinite(column)].max(initial=0) for column in numbers.T]
    rows = [
        [name, updates, *(_bar(n, high, d) for n, high, d in zip(values, highest, DIGITS, strict=True))]
        for name, updates, values in lines
    ]
    totals = [_bar(n, np.inf, d) for n, d in zip(np.nansum(numbers, 0), DIGITS, strict=True)]
    merged, wanted = (sum(column) for column in zip(*((p["updates"], len(p["clients"])) for p in done), strict=True))
    head = ("phase", "updates", "up, MB", "down, MB", "clients, s", "merging, s", "evaluation, s")
    table = scroll_table("each phase", head, [*rows, ["all", f"{merged} of {wanted}", *totals]])
    return table + paragraph("With clients: training and statistics, as long as the server waited. A bar is a share of "
                             "the largest number in its column.")  # fmt: skip


DIGITS = (3, 3, 2, 3, 2)
"""Decimals of the columns of a phase's numbers."""


def phase_name(phase: Mapping[str, Any]) -> str:
    """Name the phase of a `phase` event inside its task."""
    return "report" if phase["kind"] == "report" else f"round {phase['round']}"


def _phase(phase: Mapping[str, Any], evaluation: float | None) -> tuple[str, str, list[float | None]]:
    values = [phase["upload_bytes"] / MEGA, phase["download_bytes"] / MEGA, phase["seconds_clients"]]
    place = f"task {phase['task'] + 1}, {phase_name(phase)}"
    updates = f"{phase['updates']} of {len(phase['clients'])}"
    return place, updates, [*values, phase["seconds_merge"], evaluation]


def _bar(value: float | None, highest: float, digits: int) -> Cell:
    if value is None or np.isnan(value):
        return ""
    return Shade(f"{value:.{digits}f}", value / highest if highest else 0.0, "bar")


def _cosines(matrix: np.ndarray) -> list[list[Shade]]:
    return shades(matrix, np.vectorize(lambda v: f"{round(v, 2) + 0.0:+.2f}", otypes=[str])(matrix))


def _diagnostics(run: Run) -> str:
    """Show kinship between clients and between tasks, and intruder dimensions, where they were recorded."""
    events = read_diagnostics(run.folder) if run.config.run.diagnostics else []
    ends = [event for event in events if "intruders" in event]
    parts = []
    for task, event in {e["task"]: e for e in events if len(e.get("client_kinship", ())) > 1}.items():
        names = [f"client {c}" for c in event["clients"]]
        caption = f"cosine between the clients' changes in the last round of task {task + 1}"
        rows = list(zip(names, _cosines(np.array(event["client_kinship"])), strict=True))
        parts.append(matrix_table(caption, "", names, rows))
    if ends and len(ends[-1]["task_kinship"]) > 1:
        names = [f"task {t + 1}" for t in ends[-1]["tasks"]]
        rows = list(zip(names, _cosines(np.array(ends[-1]["task_kinship"])), strict=True))
        parts.append(matrix_table("cosine between the changes of tasks", "", names, rows))
    if ends and all(event["intruders"] for event in ends):
        kinds = intruders_by_kind(ends)
        lines: list[list[Cell]] = [
            [f"after task {event['task'] + 1}", *(Shade(f"{kinds[kind][i]:.2f}", kinds[kind][i] / TOP, "bar")
                                                  for kind in kinds)]
            for i, event in enumerate(ends)
        ]  # fmt: skip
        caption = f"intruder dimensions of each layer, of {TOP}, mean over layers of a kind"
        parts.append(scroll_table(caption, ["", *kinds], lines))
    return charts(parts)


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
