"""Draw the plots of one run into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcil.engine.metrics import accuracy_matrix, pooled_accuracies
from fcil.engine.records import PLOTS
from fcil.report.diagnostics import diagnostics_plots
from fcil.report.figure import Target, drawn_files
from fcil.report.missing_updates import missing_updates
from fcil.report.plots import accuracy_heatmap, accuracy_over_tasks, class_holders
from fcil.report.run_result import Run

if TYPE_CHECKING:
    from fcil.engine.simulation import Session  # which imports torch
    from fcil.scenario.census import Census

__all__ = ["draw_holders", "draw_recorded", "draw_run", "write_plots"]

PICTURES = ("accuracy.png", "matrix.png", "clients.png")


def draw_holders(target: Target, census: Census) -> None:
    """Draw which client holds which classes; or images of which task, where clients do not tell their classes."""
    sizes = [task.size for task in census.tasks]
    if census.by_class is not None:
        count = census.tasks[-1].seen  # of classes that no task brings nobody trains on anything
        class_holders(target, census.by_class[:, :count], census.classes[:count], sizes)
        return
    class_holders(target, census.train.T, [f"task {t + 1}" for t in range(len(census.train))], [1] * len(census.train))


def write_plots(
    folder: Path, census: Census, data: str, correct: Sequence[Sequence[int]], label: str, missing: str = ""
) -> None:
    """Draw accuracy.png (over tasks), matrix.png (heat map) and clients.png (which client holds which classes).

    Args:
        data: name of the data set.
        missing: how many updates are missing, in words; written over the results unless empty.
    """
    matrix = accuracy_matrix(correct, census.totals)
    _draw_accuracies(folder, pooled_accuracies(correct, census.totals), matrix, label, data, missing)
    draw_holders(folder / PICTURES[2], census)


def _draw_accuracies(
    folder: Path, accuracies: np.ndarray, matrix: np.ndarray, label: str, data: str, missing: str
) -> None:
    folder.mkdir(exist_ok=True)
    below = f"\n{missing}" if missing else ""
    accuracy_over_tasks(folder / PICTURES[0], {label + below: accuracies})
    accuracy_heatmap(folder / PICTURES[1], matrix, f"{label} on {data}{below}")


def draw_run(session: Session, folder: Path, summary: Mapping[str, Any]) -> None:
    """Draw the plots of a finished run and of its diagnostics, unless the run's plots exist."""
    if all(path.exists() for name in PICTURES for path in drawn_files(folder / PLOTS / name)):
        return
    plan = session.plan
    label, missing = plan.config.method.label, missing_updates([summary])
    write_plots(folder / PLOTS, plan.census, plan.config.data.name, summary["correct"], label, missing)
    diagnostics_plots(folder)


def draw_recorded(run: Run) -> list[Path]:
    """Draw all that the records of a run hold, finished or not, and return the files; data are not needed.

    Runs of earlier versions did not record who holds which classes: then that picture is not among them.

    Raises:
        ConfigError: not a run folder.
    """
    config, into = run.config, run.folder / PLOTS
    drawn: list[str] = []
    if len(run.accuracy):
        _draw_accuracies(into, run.accuracies, run.accuracy, config.method.label, config.data.name, run.missing)
        drawn += PICTURES[:2]
    if run.census is not None:
        draw_holders(into / PICTURES[2], run.census)
        drawn += PICTURES[2:]
    return [path for name in drawn for path in drawn_files(into / name)] + diagnostics_plots(run.folder)
