"""Plot of a sweep: final accuracy over the values of the setting that is swept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fcil.report.figure import draw, legend, mark
from fcil.report.plots import percent_axis

__all__ = ["accuracy_over_values"]


def _places(values: Sequence[str]) -> tuple[np.ndarray, bool]:
    """Where the values stand: at their own place where all are numbers, otherwise one after the other."""
    try:
        return np.array([float(value) for value in values]), True
    except ValueError:
        return np.arange(len(values), dtype=float), False


def accuracy_over_values(
    path: Path, setting: str, values: Sequence[str], curves: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Plot the final accuracy of each row of a comparison over the swept values, with a bar of one std over seeds.

    Args:
        path: the PNG to write.
        setting: the setting's name.
        values: its values as texts; numbers stand at their place, on a logarithmic axis where they span two decades.
        curves: label -> (mean accuracy, std) for each value; NaN where a value has no such row.
    """
    places, numbers = _places(values)
    looks = [mark(i) for i in range(len(curves))]
    means = 100 * np.array([[mean for mean, _ in curve] for curve in curves.values()])
    stds = 100 * np.nan_to_num(np.array([[std for _, std in curve] for curve in curves.values()]))
    order = np.argsort(places)

    def paint(figure: Figure, axes: Axes) -> None:
        for mean, std, look in zip(means, stds, looks, strict=True):
            axes.errorbar(
                places[order], mean[order], std[order] if std.any() else None, color=look.colour, marker=look.marker,
                linestyle=look.dashes, capsize=2, markeredgecolor="white", markeredgewidth=0.5,
            )  # fmt: skip
        if numbers and places.min() > 0 and places.max() / places.min() >= 100:
            axes.set_xscale("log")
        axes.set_xticks(places, values)
        axes.set(xlabel=setting, ylabel="final accuracy, %")
        axes.set_title("bars: ± 1 std over seeds" if stds.any() else "", loc="left", color="0.35", fontsize=7)
        percent_axis(axes, np.concatenate([means - stds, means + stds]))
        if len(curves) > 1:
            best = np.argsort(-np.nanmax(means, 1), kind="stable")
            handles = [Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes) for k in looks]
            legend(figure, [handles[i] for i in best], [list(curves)[i] for i in best], 4.2)

    draw(path, (5.2, max(2.8, 0.19 * len(curves) + 0.3)), paint)
