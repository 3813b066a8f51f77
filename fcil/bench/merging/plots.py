"""Pictures of the merging benchmark: lines of its table in, one PNG out. Shares are shown in percent."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fcil.bench.merging.evaluation import HITS
from fcil.bench.merging.tables import Line
from fcil.report.figure import draw, legend, mark

__all__ = ["merged", "sweep"]

HELD_IN, HELD_OUT, JOINT = -3 - len(HITS), -2 - len(HITS), -1 - len(HITS)
"""Where these figures stand; the hits follow, then the seconds."""
GREY = "0.55"
SPREAD = 0.5
"""Width over which the methods of one number of experts stand side by side."""
JOINT_LOOKS = (("o", True), ("s", False), ("D", False))
"""Marker, and whether it is filled, of Hits@1, 3, 5."""


def _dots(axes: Axes, made: Sequence[Line], column: int, marker: str, filled: bool) -> None:
    """A dot and ± 1 std for every line; references in grey."""
    for place, line in enumerate(made):
        mean, std = 100 * line.mean()[column], 100 * np.nan_to_num(line.std()[column])
        colour = mark(0).colour if line.merge else GREY
        axes.errorbar(
            mean, place, xerr=std or None, color=colour, marker=marker, capsize=2, linewidth=0.8,
            markerfacecolor=colour if filled else "white",
        )  # fmt: skip


def _hits() -> list[Line2D]:
    """What stands in the legend."""
    look: dict[str, Any] = {"linestyle": "", "color": mark(0).colour}
    return [
        Line2D([], [], marker=shape, markerfacecolor=None if full else "white", **look) for shape, full in JOINT_LOOKS
    ]


def merged(path: Path, made: Sequence[Line], title: str = "") -> None:
    """Every line of one backbone: accuracy per task beside the experts', and joint Hits@1, 3, 5.

    Args:
        path: the PNG to write.
        made: merges and references in the order of the table; merges are shown above, best first.
        title: what the picture is of.
    """
    if not made:
        raise ValueError("merged: no lines")
    order = sorted(made, key=lambda line: (not line.merge, -line.mean()[HELD_IN]))
    several = any(line.seeds > 1 for line in made)
    names = [textwrap.fill(line.label, 30) for line in order]
    folds = sum(name.count("\n") for name in names)

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        left, right = figure.subplots(1, 2, sharey=True)
        _dots(left, order, HELD_IN, "o", True)
        for k, (marker, filled) in enumerate(JOINT_LOOKS):
            _dots(right, order, JOINT + k, marker, filled)
        left.set_yticks(range(len(order)), names)
        left.set_ylim(len(order) - 0.5, -0.5)
        left.set(xlabel="accuracy per task, % of expert's")
        right.set(xlabel="joint accuracy, tasks not told, %")
        left.set_title(title, loc="left")
        right.set_title("± 1 std over seeds" if several else "", loc="right", color="0.35", fontsize=7)
        for each in (left, right):
            each.grid(axis="both")
            each.axhline(sum(line.merge for line in order) - 0.5, color="0.55", linewidth=0.6)
            each.tick_params(axis="y", length=0)
            each.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        figure.legend(_hits(), [f"Hits@{k}" for k in HITS], loc="outside lower right", ncols=len(HITS))

    draw(path, (6.8, (0.2 if not folds else 0.26) * len(order) + 1.1), paint)


def _panel(axes: Axes, made: Sequence[Line], labels: Sequence[str], column: int) -> None:
    """One figure of one backbone against the number of experts; methods side by side, so that no bar hides another."""
    for i, label in enumerate(labels):
        mine = sorted((line for line in made if line.label == label), key=lambda line: line.experts)
        look, aside = mark(i), SPREAD * ((i + 0.5) / len(labels) - 0.5)
        mean = np.array([100 * line.mean()[column] for line in mine])
        std = np.array([100 * np.nan_to_num(line.std()[column]) for line in mine])
        axes.errorbar(
            [line.experts + aside for line in mine], mean, std if std.any() else None, color=look.colour,
            marker=look.marker, linestyle=look.dashes, linewidth=0.9, elinewidth=0.6, markersize=3.5,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")


def sweep(path: Path, made: Sequence[Line]) -> None:
    """Normalised accuracy of the tasks merged, and below of the others, against the number of experts.

    Args:
        path: the PNG to write; a column of panels per backbone.
        made: lines of several numbers of experts; only merges are shown.
    """
    shown = [line for line in made if line.merge]
    if not shown:
        raise ValueError("sweep: no merges")
    models = list(dict.fromkeys(line.model for line in shown))
    labels = list(dict.fromkeys(line.label for line in shown))
    several = any(line.seeds > 1 for line in shown)

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        panels = figure.subplots(2, len(models), sharex=True, sharey="row", squeeze=False)
        for row, column in zip(panels, (HELD_IN, HELD_OUT), strict=True):
            for panel, model in zip(row, models, strict=True):
                _panel(panel, [line for line in shown if line.model == model], labels, column)
        for panel, model in zip(panels[0], models, strict=True):
            panel.set_title(model, loc="left")
        for panel in panels[1]:
            panel.set(xlabel="experts merged")
        panels[0, 0].set(ylabel="tasks merged,\n% of expert's")
        panels[1, 0].set(ylabel="other tasks,\n% of expert's")
        panels[1, -1].set_title("± 1 std over seeds" if several else "", loc="right", color="0.35", fontsize=7)
        handles = [
            Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, linewidth=0.9, markersize=3.5)
            for look in map(mark, range(len(labels)))
        ]
        legend(figure, handles, labels, 3.6)

    draw(path, (1.8 + 2.6 * len(models), max(4.0, 0.19 * len(labels) + 0.6)), paint)
