"""Draw the plots of one run into its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcil.engine.metrics import accuracy_matrix, pooled_accuracies
from fcil.engine.records import PLOTS
from fcil.engine.simulation import Session
from fcil.report.diagnostics import diagnostics_plots
from fcil.report.figure import Target, drawn_files
from fcil.report.missing_updates import missing_updates
from fcil.report.plots import accuracy_heatmap, accuracy_over_tasks, class_holders
from fcil.scenario.census import Census

__all__ = ["draw_holders", "draw_run", "write_plots"]

PICTURES = ("accuracy.png", "matrix.png", "clients.png")


def draw_holders(target: Target, census: Census) -> None:
    """Draw which client holds which classes; or images of which task, where clients do not tell their classes."""
    sizes = [task.size for task in census.tasks]
    if census.by_class is not None:
        seen = census.tasks[-1].seen  # of classes that no task brings nobody trains on anything
        class_holders(target, census.by_class[:, :seen], census.classes[:seen], sizes)
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
    folder.mkdir(exist_ok=True)
    total = census.totals
    below = f"\n{missing}" if missing else ""
    accuracy_over_tasks(folder / "accuracy.png", {label + below: pooled_accuracies(correct, total)})
    accuracy_heatmap(folder / "matrix.png", accuracy_matrix(correct, total), f"{label} on {data}{below}")
    draw_holders(folder / "clients.png", census)


def draw_run(session: Session, folder: Path, summary: Mapping[str, Any]) -> None:
    """Draw the plots of a finished run and of its diagnostics, unless the run's plots exist."""
    if all(path.exists() for name in PICTURES for path in drawn_files(folder / PLOTS / name)):
        return
    plan = session.plan
    label, missing = plan.config.method.label, missing_updates([summary])
    write_plots(folder / PLOTS, plan.census, plan.config.data.name, summary["correct"], label, missing)
    diagnostics_plots(folder)
