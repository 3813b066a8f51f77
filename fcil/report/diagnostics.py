"""The pictures of a run's diagnostics: who is akin to whom, and how many directions are intruders."""

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

from fcil.diagnostics import TOP
from fcil.errors import ConfigError
from fcil.records import EVENTS, PLOTS
from fcil.report.canvas import SMALL, draw, legend, mark, thinned
from fcil.report.losses import said

__all__ = ["diagnostics_plots", "intruders_over_tasks", "kinship_heatmaps", "read_diagnostics"]

PANELS = 5
PANEL = 1.35
"""Inches of a panel's side."""


def read_diagnostics(folder: Path) -> list[dict[str, Any]]:
    """The events `diagnostics` of a run, in their order.

    Raises:
        ConfigError: not a run folder.
    """
    return [event for event in _events(folder, '"diagnostics"') if event["event"] == "diagnostics"]


def _events(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The events in whose lines one of the words occurs."""
    try:
        whole, _, _ = (folder / EVENTS).read_text().rpartition("\n")  # of a run that goes on the last line may be torn
    except OSError:
        raise ConfigError(f"{folder}: not a run folder (it has no {EVENTS})") from None
    return [json.loads(line) for line in whole.splitlines() if any(word in line for word in words)]


def _lost(folder: Path) -> str:
    """The updates that the phases done so far did without, in words, as a line of its own; nothing without losses."""
    events = _events(folder, '"clients"', '"merged"')
    asked = {event["phase"]: len(event["clients"]) for event in events if event["event"] == "phase"}
    merged = {event["phase"]: event["updates"] for event in events if event["event"] == "merged"}
    whole = sum(asked[phase] for phase in merged)
    lost = said(whole - sum(merged.values()), whole)
    return f"\n{lost}" if lost else ""


def _panel(axes: Axes, matrix: np.ndarray, names: Sequence[int]) -> Any:
    image = axes.imshow(matrix, cmap="RdBu", norm=Normalize(-1, 1), interpolation="nearest")
    shown = thinned(len(names), PANEL, 11)
    axes.set_xticks(list(shown), [str(names[i]) for i in shown])
    axes.set_yticks(list(shown), [str(names[i]) for i in shown])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if PANEL * 72 / len(names) >= 2.4 * SMALL:
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{round(value, 1) + 0:.1f}", ha="center", va="center", fontsize=SMALL, color=colour)
    return image


def kinship_heatmaps(
    path: Path, panels: Mapping[str, tuple[np.ndarray, Sequence[int]]], label: str, title: str
) -> None:
    """Cosines between changes, from -1 to 1 in every picture.

    Args:
        path: the PNG to write.
        panels: title -> ((n, n) kinship, the n clients' or tasks' numbers); of many, some that are evenly spread.
        label: what rows and columns are.
        title: what the picture is of.
    """
    chosen = sorted({round(i) for i in np.linspace(0, len(panels) - 1, min(len(panels), PANELS))})
    each = [list(panels.items())[i] for i in chosen]

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        several = figure.subplots(1, len(each), squeeze=False)[0]
        for position, (own, (name, (matrix, names))) in enumerate(zip(several, each, strict=True)):
            image = _panel(own, matrix, names)
            own.set_title(name, loc="left", fontsize=7)
            own.set(xlabel=label, ylabel=label if position == 0 else "")
        figure.suptitle(title, x=0.02, ha="left", fontsize=8)
        bar = figure.colorbar(image, ax=several, shrink=0.7, aspect=16, pad=0.05, ticks=[-1, 0, 1])
        bar.outline.set_visible(False)
        bar.ax.set_title("cosine", fontsize=7)

    draw(path, (0.9 + (PANEL + 0.3) * len(each), PANEL + 0.95), paint)


def intruders_over_tasks(
    path: Path, tasks: Sequence[int], counts: Mapping[str, Sequence[float]], top: int, title: str = ""
) -> None:
    """Intruder dimensions of the deployed model after each task, mean per layer of each kind.

    Args:
        path: the PNG to write.
        tasks: their numbers, from 1.
        counts: kind of layer -> mean number of intruders among the `top` first directions, after each task.
        top: directions looked at in each layer.
        title: what else is to be said.
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

    draw(path, (4.4, 2.4), paint)


def _by_kind(ends: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Last part of the layers' names -> mean count after each task."""
    kinds = dict.fromkeys(layer.rpartition(".")[2] for event in ends for layer in event["intruders"])

    def mean(event: Mapping[str, Any], kind: str) -> float:
        return float(np.mean([n for layer, n in event["intruders"].items() if layer.rpartition(".")[2] == kind]))

    return {kind: [mean(event, kind) for event in ends] for kind in kinds}


def diagnostics_plots(folder: Path) -> list[Path]:
    """Draw what the run in `folder` recorded, into its plots/; the pictures' paths, none without diagnostics."""
    events, drawn, lost = read_diagnostics(folder), [], _lost(folder)
    ends = [event for event in events if "intruders" in event]
    last = {event["task"]: event for event in events if len(event.get("client_kinship", ())) > 1}
    if last:
        panels = {f"task {t + 1}": (np.array(e["client_kinship"]), e["clients"]) for t, e in last.items()}
        drawn.append(folder / PLOTS / "kinship_clients.png")
        kinship_heatmaps(drawn[-1], panels, "client", "kinship of the clients' changes in a task's last round" + lost)
    if ends and len(ends[-1]["task_kinship"]) > 1:
        tasks = [t + 1 for t in ends[-1]["tasks"]]
        drawn.append(folder / PLOTS / "kinship_tasks.png")
        kinship_heatmaps(
            drawn[-1], {"": (np.array(ends[-1]["task_kinship"]), tasks)}, "task", "kinship of tasks" + lost
        )
    if ends and all(event["intruders"] for event in ends):
        drawn.append(folder / PLOTS / "intruders.png")
        intruders_over_tasks(drawn[-1], [event["task"] + 1 for event in ends], _by_kind(ends), TOP, lost.strip())
    return drawn
