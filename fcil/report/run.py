"""Draw the plots of one run into its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcil.data.dataset import Dataset
from fcil.engine.metrics import accuracy_matrix, pooled_accuracies
from fcil.engine.records import PLOTS
from fcil.engine.simulation import Session
from fcil.report.diagnostics import diagnostics_plots
from fcil.report.missing_updates import missing_updates
from fcil.report.plots import accuracy_heatmap, accuracy_over_tasks, class_holders
from fcil.scenario.scenario import Scenario

__all__ = ["draw_run", "client_class_counts", "write_plots"]

PICTURES = ("accuracy.png", "matrix.png", "clients.png")


def client_class_counts(scenario: Scenario, data: Dataset) -> np.ndarray:
    """Count each client's training images of each class: (clients, classes), in the run's class order."""
    counts = np.zeros((scenario.clients, len(data.classes)), np.int64)
    for parts in scenario.parts:
        for client, part in enumerate(parts):
            counts[client] += np.bincount(scenario.positions[data.train.labels[part]], minlength=len(data.classes))
    return counts


def write_plots(
    folder: Path, scenario: Scenario, data: Dataset, correct: Sequence[Sequence[int]], label: str, missing: str = ""
) -> None:
    """Draw accuracy.png (over tasks), matrix.png (heat map) and clients.png (which client holds which classes).

    Args:
        missing: how many updates are missing, in words; written over the results unless empty.
    """
    folder.mkdir(exist_ok=True)
    total = [len(t) for t in scenario.tests]
    below = f"\n{missing}" if missing else ""
    accuracy_over_tasks(folder / "accuracy.png", {label + below: pooled_accuracies(correct, total)})
    accuracy_heatmap(folder / "matrix.png", accuracy_matrix(correct, total), f"{label} on {data.name}{below}")
    names = [data.classes[int(c)] for c in scenario.order]
    task_sizes = [task.size for task in scenario.tasks]
    class_holders(folder / "clients.png", client_class_counts(scenario, data), names, task_sizes)


def draw_run(session: Session, folder: Path, summary: Mapping[str, Any]) -> None:
    """Draw the plots of a finished run and of its diagnostics, unless the run's plots exist."""
    if all((folder / PLOTS / name).exists() for name in PICTURES):
        return
    plan = session.plan
    label, missing = plan.config.method.label, missing_updates([summary])
    write_plots(folder / PLOTS, plan.scenario, session.worker.dataset, summary["correct"], label, missing)
    diagnostics_plots(folder)
