"""Draw the figures of a comparison: accuracy over tasks, against traffic, and against time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcil.engine.metrics import pooled_accuracies
from fcil.report.cost_plots import Points, accuracy_against_seconds, accuracy_against_traffic
from fcil.report.figure import drawn_files
from fcil.report.plots import accuracy_over_tasks
from fcil.report.rows import Row
from fcil.report.units import MEGA

__all__ = ["curves_of", "draw_table_plots", "seconds_points", "traffic_points"]


def curves_of(rows: Sequence[Row], runs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Title of each row -> accuracy over all classes seen after each task, (seeds, tasks)."""
    accuracies = [(run["label"], pooled_accuracies(run["correct"], run["total"])) for run in runs]
    return {row.title: np.stack([curve for label, curve in accuracies if label == row.label]) for row in rows}


def traffic_points(rows: Sequence[Row]) -> Points:
    """Title of each row -> final accuracy, its spread, and megabytes of a run, up and down, 10^6 bytes."""
    figures = {row.title: row.figures for row in rows}
    return {
        title: (f["final_accuracy_mean"], f["final_accuracy_std"],
                (f["upload_bytes_mean"] + f["download_bytes_mean"]) / MEGA)
        for title, f in figures.items()
    }  # fmt: skip


def seconds_points(rows: Sequence[Row]) -> Points:
    """Title of each row -> final accuracy, its spread, and seconds of a run alone; NaN for a row without such times."""
    figures = {row.title: row.figures for row in rows}
    return {
        title: (f["final_accuracy_mean"], f["final_accuracy_std"], f["seconds_mean"]) for title, f in figures.items()
    }


def draw_table_plots(out: Path, rows: Sequence[Row], runs: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Draw accuracy, traffic and, where any row has honest times, seconds of the rows of a table; return the paths."""
    accuracy_over_tasks(out / "accuracy.png", curves_of(rows, runs))
    accuracy_against_traffic(out / "traffic.png", traffic_points(rows))
    if any(row.untimed < row.runs for row in rows):
        accuracy_against_seconds(out / "seconds.png", seconds_points(rows))
        return [out / "accuracy.png", out / "traffic.png", out / "seconds.png"]
    for path in drawn_files(out / "seconds.png"):
        path.unlink(missing_ok=True)  # of a time when some row had
    return [out / "accuracy.png", out / "traffic.png"]
