"""Plot a run's diagnostics: cosine similarity between weight updates, and intruder dimensions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fcil.engine.client_events import asked
from fcil.engine.records import EVENTS, PLOTS
from fcil.errors import ConfigError
from fcil.merging.similarity import TOP
from fcil.report.figure import SMALL, Target, draw, drawn_files, label_indices, legend, mark
from fcil.report.form import form
from fcil.report.missing_updates import missing_updates_text

__all__ = ["diagnostics_plots", "intruders_by_kind", "intruders_over_tasks", "kinship_heatmaps", "read_diagnostics"]

PANELS = 5
PANEL = 1.35
"""Inches of a panel's side."""


def read_diagnostics(folder: Path) -> list[dict[str, Any]]:
    """Read the `diagnostics` events of a run, in their order.

    Raises:
        ConfigError: not a run folder.
    """
    return [event for event in _events(folder, '"diagnostics"') if event["event"] == "diagnostics"]


def _events(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Read the events whose lines contain one of the words."""
    try:
        lines, _, _ = (folder / EVENTS).read_text().rpartition("\n")  # while a run goes on, its last line may be torn
    except OSError:
        raise ConfigError(f"{folder}: not a run folder (it has no {EVENTS})") from None
    return [json.loads(line) for line in lines.splitlines() if any(word in line for word in words)]


def _missing_updates(folder: Path) -> str:
    """Say on a new line how many updates the finished phases merged without; empty if none is missing."""
    events = _events(folder, '"clients"', '"merged"')
    clients = {event["phase"]: asked(event) for event in events if event["event"] == "phase"}
    merged = {event["phase"]: event["updates"] for event in events if event["event"] == "merged"}
    wanted = sum(clients[phase] for phase in merged)
    text = missing_updates_text(wanted - sum(merged.values()), wanted)
    return f"\n{text}" if text else ""


def _panel(axes: Axes, matrix: np.ndarray, names: Sequence[int], side: float) -> Any:
    image = axes.imshow(matrix, cmap="RdBu", norm=Normalize(-1, 1), interpolation="nearest")
    labelled = label_indices(len(names), side, 11)
    axes.set_xticks(list(labelled), [str(names[i]) for i in labelled])
    axes.set_yticks(list(labelled), [str(names[i]) for i in labelled])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if side * 72 / len(names) >= 2.4 * SMALL:
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{round(value, 1) + 0:.1f}", ha="center", va="center", fontsize=SMALL, color=colour)
    return image


def kinship_heatmaps(
    target: Target, panels: Mapping[str, tuple[np.ndarray, Sequence[int]]], label: str, title: str
) -> None:
    """Plot cosines between weight updates as heat maps, on a scale from -1 to 1 in every picture.

    Args:
        target: the file to write.
        panels: title -> ((n, n) kinship, the n clients' or tasks' numbers); evenly spread ones if not all fit.
        label: axis label, what rows and columns are.
        title: title of the figure.
    """
    room = int((form().inches(100) - 0.9) / (0.6 * PANEL + 0.3))
    chosen = sorted({round(i) for i in np.linspace(0, len(panels) - 1, min(len(panels), PANELS, room))})
    shown = [list(panels.items())[i] for i in chosen]
    side = min(PANEL, (form().inches(100) - 0.9) / len(shown) - 0.3)

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        row = figure.subplots(1, len(shown), squeeze=False)[0]
        for position, (panel, (name, (matrix, names))) in enumerate(zip(row, shown, strict=True)):
            image = _panel(panel, matrix, names, side)
            panel.set_title(name, loc="left", fontsize=7)
            panel.set(xlabel=label, ylabel=label if position == 0 else "")
        figure.suptitle(title, x=0.02, ha="left", fontsize=8)
        bar = figure.colorbar(image, ax=row, shrink=0.7, aspect=16, pad=0.05, ticks=[-1, 0, 1])
        bar.outline.set_visible(False)
        bar.ax.set_title("cosine", fontsize=7)

    draw(target, (form().inches(0.9 + (PANEL + 0.3) * len(shown)), side + 0.95), paint)


def intruders_over_tasks(
    target: Target, tasks: Sequence[int], counts: Mapping[str, Sequence[float]], top: int, title: str = ""
) -> None:
    """Plot the deployed model's intruder dimensions after each task, as means over the layers of each kind.

    Args:
        target: the file to write.
        tasks: their numbers, from 1.
        counts: kind of layer -> mean number of intruders among the `top` first directions, after each task.
        top: directions looked at in each layer.
        title: a remark above the plot.
    """

    def paint(figure: Figure, axes: Axes) -> None:
        looks = [mark(i) for i in range(len(counts))]
        for values, look in zip(counts.values(), looks, strict=True):
            axes.plot(tasks, values, color=look.colour, linestyle=look.dashes, marker=look.marker, clip_on=False)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
        axes.set_ylim(0, max(1.0, *(1.1 * max(values) for values in counts.values())))
        axes.grid(axis="y")
        axes.set(xlabel="tasks learned", ylabel=f"intruders per layer, of {top}")
        axes.set_title(title, loc="left")
        handles = [Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes) for k in looks]
        legend(figure, handles, list(counts), 4.2)

    draw(target, (form().inches(4.4), 2.4), paint)


def intruders_by_kind(ends: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Average the intruder counts over layers of a kind: last part of the layers' names -> mean after each task."""
    kinds = dict.fromkeys(layer.rpartition(".")[2] for event in ends for layer in event["intruders"])

    def mean(event: Mapping[str, Any], kind: str) -> float:
        return float(np.mean([n for layer, n in event["intruders"].items() if layer.rpartition(".")[2] == kind]))

    return {kind: [mean(event, kind) for event in ends] for kind in kinds}


def diagnostics_plots(folder: Path) -> list[Path]:
    """Plot the diagnostics of the run in `folder` into its plots/; return the paths, none without diagnostics."""
    if not (events := read_diagnostics(folder)):
        return []
    drawn, missing = [], _missing_updates(folder)
    ends = [event for event in events if "intruders" in event]
    last = {event["task"]: event for event in events if len(event.get("client_kinship", ())) > 1}
    if last:
        panels = {f"task {t + 1}": (np.array(e["client_kinship"]), e["clients"]) for t, e in last.items()}
        drawn.append(folder / PLOTS / "kinship_clients.png")
        kinship_heatmaps(
            drawn[-1], panels, "client", "kinship of the clients' changes in a task's last round" + missing
        )
    if ends and len(ends[-1]["task_kinship"]) > 1:
        tasks = [t + 1 for t in ends[-1]["tasks"]]
        drawn.append(folder / PLOTS / "kinship_tasks.png")
        kinship_heatmaps(
            drawn[-1], {"": (np.array(ends[-1]["task_kinship"]), tasks)}, "task", "kinship of tasks" + missing
        )
    if ends and all(event["intruders"] for event in ends):
        drawn.append(folder / PLOTS / "intruders.png")
        intruders_over_tasks(
            drawn[-1], [event["task"] + 1 for event in ends], intruders_by_kind(ends), TOP, missing.strip()
        )
    return [file for path in drawn for file in drawn_files(path)]
