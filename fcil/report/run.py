"""The plots of one run, in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcil.data.dataset import Dataset
from fcil.engine.metrics import accuracy_matrix, pooled_accuracies
from fcil.engine.records import PLOTS
from fcil.engine.simulation import Session
from fcil.report.diagnostics import diagnostics_plots
from fcil.report.losses import losses
from fcil.report.plots import accuracy_heatmap, accuracy_over_tasks, class_holders
from fcil.scenario.scenario import Scenario

__all__ = ["draw_run", "holders", "write_plots"]

PICTURES = ("accuracy.png", "matrix.png", "clients.png")


def holders(scenario: Scenario, data: Dataset) -> np.ndarray:
    """(clients, classes) training images that each client holds of each class, in the run's class order."""
    counts = np.zeros((scenario.clients, len(data.classes)), np.int64)
    for parts in scenario.parts:
        for client, part in enumerate(parts):
            counts[client] += np.bincount(scenario.positions[data.train.labels[part]], minlength=len(data.classes))
    return counts


def write_plots(
    folder: Path, scenario: Scenario, data: Dataset, correct: Sequence[Sequence[int]], label: str, lost: str = ""
) -> None:
    """accuracy.png (over tasks), matrix.png (heat map) and clients.png (who holds which classes).

    Args:
        lost: the updates missing, in words; where any are, it is written over the results.
    """
    folder.mkdir(exist_ok=True)
    total = [len(t) for t in scenario.tests]
    below = f"\n{lost}" if lost else ""
    accuracy_over_tasks(folder / "accuracy.png", {label + below: pooled_accuracies(correct, total)})
    accuracy_heatmap(folder / "matrix.png", accuracy_matrix(correct, total), f"{label} on {data.name}{below}")
    names = [data.classes[int(c)] for c in scenario.order]
    class_holders(folder / "clients.png", holders(scenario, data), names, [task.size for task in scenario.tasks])


def draw_run(session: Session, folder: Path, summary: Mapping[str, Any]) -> None:
    """Draw the plots of a finished run, where they are not drawn yet, and those of its diagnostics."""
    if all((folder / PLOTS / name).exists() for name in PICTURES):
        return
    plan = session.plan
    label, lost = plan.config.method.name, losses([summary])
    write_plots(folder / PLOTS, plan.scenario, session.worker.dataset, summary["correct"], label, lost)
    diagnostics_plots(folder)
