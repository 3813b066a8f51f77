"""The parts of a run's page that tell of its phases: traffic, time and diagnostics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fcil.engine.client_events import asked
from fcil.merging.similarity import TOP
from fcil.report.diagnostics import intruders_by_kind, read_diagnostics
from fcil.report.html import Cell, Shade
from fcil.report.page.parts import charts, matrix_table, paragraph, scroll_table, shades
from fcil.report.run_result import Run
from fcil.report.units import MEGA

__all__ = ["diagnostics_part", "phase_name", "phases_part"]


def phases_part(run: Run) -> str:
    """Show every phase that is done: who took part, bytes and seconds."""
    begun: dict[int, Mapping[str, Any]] = {}
    done: list[dict[str, Any]] = []
    evaluated: dict[int, float] = {}
    for event in run.events:
        if event["event"] == "phase":
            begun[event["phase"]] = event
        elif event["event"] == "merged":
            done.append({**begun[event["phase"]], **event})
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
    merged, wanted = (sum(column) for column in zip(*((p["updates"], asked(p)) for p in done), strict=True))
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
    updates = f"{phase['updates']} of {asked(phase)}"
    return place, updates, [*values, phase["seconds_merge"], evaluation]


def _bar(value: float | None, highest: float, digits: int) -> Cell:
    if value is None or np.isnan(value):
        return ""
    return Shade(f"{value:.{digits}f}", value / highest if highest else 0.0, "bar")


def _cosines(matrix: np.ndarray) -> list[list[Shade]]:
    return shades(matrix, np.vectorize(lambda v: f"{round(v, 2) + 0.0:+.2f}", otypes=[str])(matrix))


def diagnostics_part(run: Run) -> str:
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
