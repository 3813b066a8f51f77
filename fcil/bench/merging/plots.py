"""Plots of the merging benchmark: lines of its table in, one figure out. Shares are shown in percent."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fcil.bench.merging.evaluation import HITS
from fcil.bench.merging.tables import Line
from fcil.report.figure import Target, draw, legend, mark
from fcil.report.form import form

__all__ = ["accuracy_by_expert_count", "accuracy_by_method"]

HELD_IN, HELD_OUT, JOINT = -3 - len(HITS), -2 - len(HITS), -1 - len(HITS)
"""Columns of these figures, from the end: `JOINT` is Hits@1, the other hits follow, then the seconds."""
GREY = "0.55"
SPREAD = 0.5
"""Width over which the methods of one number of experts stand side by side."""
JOINT_LOOKS = (("o", True), ("s", False), ("D", False))
"""Marker, and whether it is filled, of Hits@1, 3, 5."""


def _dots(axes: Axes, lines: Sequence[Line], column: int, marker: str, filled: bool) -> None:
    """Plot a dot and ± 1 std for every line; references in grey."""
    for place, line in enumerate(lines):
        mean, std = 100 * line.mean()[column], 100 * np.nan_to_num(line.std()[column])
        colour = mark(0).colour if line.merge else GREY
        axes.errorbar(
            mean, place, xerr=std or None, color=colour, marker=marker, capsize=2, linewidth=0.8,
            markerfacecolor=colour if filled else "white",
        )  # fmt: skip


def _hits_handles() -> list[Line2D]:
    """Make the legend's samples of Hits@1, 3, 5."""
    look: dict[str, Any] = {"linestyle": "", "color": mark(0).colour}
    return [
        Line2D([], [], marker=shape, markerfacecolor=None if full else "white", **look) for shape, full in JOINT_LOOKS
    ]


def accuracy_by_method(target: Target, lines: Sequence[Line], title: str = "") -> None:
    """Plot every line of one backbone: accuracy per task in percent of the experts', and joint Hits@1, 3, 5.

    Args:
        target: the file to write.
        lines: merges and references in the order of the table; merges are shown above, best first.
        title: title of the plot.
    """
    if not lines:
        raise ValueError("accuracy_by_method: no lines")
    order = sorted(lines, key=lambda line: (not line.merge, -line.mean()[HELD_IN]))
    several = any(line.seeds > 1 for line in lines)
    names = [textwrap.fill(line.label, 16 if form().narrow else 30) for line in order]
    folds = sum(name.count("\n") for name in names)

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        left, right = figure.subplots(1, 2, sharey=True)
        _dots(left, order, HELD_IN, "o", True)
        for k, (marker, filled) in enumerate(JOINT_LOOKS):
            _dots(right, order, JOINT + k, marker, filled)
        left.set_yticks(range(len(order)), names)
        left.set_ylim(len(order) - 0.5, -0.5)
        comma = ",\n" if form().narrow else ", "
        left.set(xlabel=f"accuracy per task{comma}% of expert's")
        right.set(xlabel=f"joint accuracy{comma}tasks not told, %")
        left.set_title(title, loc="left")
        right.set_title("± 1 std over seeds" if several else "", loc="right", color="0.35", fontsize=7)
        for panel in (left, right):
            panel.grid(axis="both")
            panel.axhline(sum(line.merge for line in order) - 0.5, color="0.55", linewidth=0.6)
            panel.tick_params(axis="y", length=0)
            if not form().zoom:
                panel.set_xlim(-2, max(102, panel.get_xlim()[1] + 3))
            panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        figure.legend(_hits_handles(), [f"Hits@{k}" for k in HITS], loc="outside lower right", ncols=len(HITS))

    draw(target, (form().inches(6.8), (0.2 if not folds else 0.26) * len(order) + 1.1), paint)


def _panel(axes: Axes, lines: Sequence[Line], labels: Sequence[str], column: int) -> None:
    """Plot a figure against the number of experts; methods are side by side, so that no bar hides another."""
    for i, label in enumerate(labels):
        of_method = sorted((line for line in lines if line.label == label), key=lambda line: line.experts)
        look, aside = mark(i), SPREAD * ((i + 0.5) / len(labels) - 0.5)
        mean = np.array([100 * line.mean()[column] for line in of_method])
        std = np.array([100 * np.nan_to_num(line.std()[column]) for line in of_method])
        axes.errorbar(
            [line.experts + aside for line in of_method], mean, std if std.any() else None, color=look.colour,
            marker=look.marker, linestyle=look.dashes, linewidth=0.9, elinewidth=0.6, markersize=3.5,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not form().zoom:
        axes.set_ylim(-2, max(102, axes.get_ylim()[1] + 3))
    axes.grid(axis="y")


def accuracy_by_expert_count(target: Target, lines: Sequence[Line]) -> None:
    """Plot normalised accuracy on the tasks merged, and below on the others, against the number of experts.

    Args:
        target: the file to write; a column of panels per backbone.
        lines: lines of several numbers of experts; only merges are shown.
    """
    shown = [line for line in lines if line.merge]
    if not shown:
        raise ValueError("accuracy_by_expert_count: no merges")
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

    draw(target, (form().inches(1.8 + 2.6 * len(models)), max(4.0, 0.19 * len(labels) + 0.6)), paint)
