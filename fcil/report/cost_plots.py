"""Plot final accuracy against what it costs, megabytes or seconds, with a label at every point."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fcil.report.figure import SMALL, Target, draw, line_name, mark, name_parts
from fcil.report.form import form
from fcil.report.plots import percent_axis

__all__ = ["Points", "accuracy_against_seconds", "accuracy_against_traffic", "place_labels"]

Points = Mapping[str, tuple[float, float, float]]
"""Label -> (mean accuracy, its standard deviation or NaN, cost)."""
ANGLES = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 65, 295, 115, 245)
REACHES = (5, 9, 14, 20, 28, 38, 50, 64, 80)
"""Degrees and points at which a label may stand from its point, the best ones first."""
GAP = (6, 1)
"""Points between two labels, across and down, without which they read as one."""
FAR = 9
"""Points; a label further away is tied to its point by a line."""


def _overlaps(box: np.ndarray, others: np.ndarray) -> float:
    """Area that a box (left, bottom, right, top) shares with others, (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return float(np.clip(high - low, 0, None).prod(1).sum())


def place_labels(
    places: np.ndarray, sizes: np.ndarray, obstacles: np.ndarray, room: np.ndarray, unit: float = 1.0
) -> np.ndarray:
    """Choose where labels stand beside their points, one after another: clear of points, of each other and inside.

    Args:
        places: (n, 2) the points.
        sizes: (n, 2) width and height of each label.
        obstacles: (m, 4) boxes that labels should not cover: left, bottom, right, top.
        room: (4,) the box that labels should not leave.
        unit: length of a typographic point.

    Returns:
        (n, 4) the labels' boxes. Where no place is free, that with least overlap.
    """
    boxes = np.zeros((0, 4))
    angles = np.radians(ANGLES)
    ways = np.stack([np.cos(angles), np.sin(angles)], 1).round(6)
    chosen = np.zeros((len(places), 4))
    for i in np.argsort(-places[:, 1], kind="stable"):
        best = np.inf
        for reach in REACHES:
            for way in ways:
                corner = places[i] + way * (reach * unit + sizes[i] / 2) - sizes[i] / 2
                box = np.concatenate([corner, corner + sizes[i]])
                outside = sizes[i].prod() - _overlaps(box, room[None])
                cost = 3 * _overlaps(box, boxes) + _overlaps(box, obstacles) + 5 * outside
                if cost < best - 1e-9:
                    best, chosen[i] = cost, box
            if best < 1e-9:
                break
        boxes = np.vstack([boxes, chosen[i]])
    return chosen


def _label(figure: Figure, axes: Axes, labels: Mapping[str, str], places: np.ndarray, stds: np.ndarray) -> None:
    """Write the labels of points, (n, 2) in data, where they cover nothing; `labels` has them by the point's name."""
    figure.draw_without_rendering()  # now the axes have their place
    unit = figure.dpi / 72
    texts = [axes.annotate(label, (0, 0), xycoords="figure pixels", fontsize=SMALL) for label in labels.values()]
    sizes = np.array([[box.width, box.height] for box in (text.get_window_extent() for text in texts)])
    gap = unit * np.array(GAP)
    dots = axes.transData.transform(places)
    ends = [axes.transData.transform(places + sign * np.stack([np.zeros(len(stds)), stds], 1)) for sign in (-1, 1)]
    around, thin = np.full((len(dots), 2), 3.5 * unit), np.full((len(dots), 2), [1.5 * unit, 0])
    obstacles = np.vstack([np.hstack([dots - around, dots + around]), np.hstack([ends[0] - thin, ends[1] + thin])])
    room = axes.get_window_extent()
    boxes = place_labels(dots, sizes + gap, obstacles, np.array([room.x0, room.y0, room.x1, room.y1]), unit)
    boxes += np.concatenate([gap, -gap]) / 2
    for i, (line, text, box) in enumerate(zip(labels, texts, boxes, strict=True)):
        text.remove()
        middle, nearest = (box[:2] + box[2:]) / 2, np.clip(dots[i], box[:2], box[2:])
        at: dict[str, Any] = {
            "xycoords": "data",
            "textcoords": "offset points",
            "ha": "center",
            "va": "center",
            "fontsize": SMALL,
        }
        shown = axes.annotate(labels[line], tuple(places[i]), tuple((middle - dots[i]) / unit), **at)
        shown.set_in_layout(False)
        name_parts(line, "label", [shown])
        if np.hypot(*(nearest - dots[i])) > FAR * unit:
            offset = tuple((nearest - dots[i]) / unit)
            thread = {"arrowstyle": "-", "color": "0.55", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            tie = axes.annotate("", tuple(places[i]), offset, textcoords="offset points", arrowprops=thread)
            tie.set_in_layout(False)
            name_parts(line, "tie", filter(None, [tie.arrow_patch]))


def _cost_axis(axes: Axes, costs: np.ndarray, name: str) -> None:
    """Set a logarithmic axis that holds the costs, with two labelled ticks at least."""
    axes.set_xscale("log")
    decades = np.ptp(np.log10(costs))
    air = 2.5 if decades < 1 else 1.6
    axes.set_xlim(costs.min() / air, costs.max() * air)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x")
    axes.set(xlabel=name, ylabel="final accuracy, %")


def _against(target: Target, points: Points, name: str, remark: str) -> None:
    labels_with_cost = [label for label, (_, _, cost) in points.items() if cost > 0]
    numbers = [
        i for i, label in enumerate(points) if label in labels_with_cost
    ]  # the same as in other figures of these rows
    means, stds, costs = np.array([points[label] for label in labels_with_cost], float).T
    means, stds = 100 * means, 100 * np.nan_to_num(stds)

    def paint(figure: Figure, axes: Axes) -> None:
        bar: dict[str, Any] = {"markersize": 5, "capsize": 2, "linewidth": 0.8}
        for x, y, std, number in zip(costs, means, stds, numbers, strict=True):
            look = mark(number)
            drawn = axes.errorbar(x, y, std or None, color=look.colour, marker=look.marker, **bar)
            name_parts(line_name(number), "point", drawn.get_children())
        _cost_axis(axes, costs, name)
        title = "; ".join(filter(None, ["bars: ± 1 std over seeds" if stds.any() else "", remark]))
        axes.set_title(title, loc="left", color="0.35", fontsize=7, wrap=True)
        percent_axis(axes, np.concatenate([means - stds, means + stds]))
        labels = {line_name(number): label for number, label in zip(numbers, labels_with_cost, strict=True)}
        _label(figure, axes, labels, np.stack([costs, means], 1), stds)

    width = form().inches(5.2)
    draw(target, (width, max(2.6, 0.6 * width) + 0.02 * len(labels_with_cost)), paint)


def accuracy_against_traffic(target: Target, points: Points) -> None:
    """Plot final accuracy against the traffic it costs; left and up is better.

    Args:
        target: the file to write.
        points: cost in megabytes of a whole run, both ways, 10^6 bytes.
    """
    if not points or any(megabytes <= 0 for _, _, megabytes in points.values()):
        raise ValueError("accuracy_against_traffic: needs points, each with more than 0 megabytes")
    _against(target, points, "traffic of the run, up and down, MB", "")


def accuracy_against_seconds(target: Target, points: Points) -> None:
    """Plot final accuracy against the seconds that a run takes alone; left and up is better.

    Args:
        target: the file to write.
        points: cost in seconds of a whole run; NaN for methods without such times, which are counted in words.
    """
    untimed = sum(not seconds > 0 for _, _, seconds in points.values())
    if untimed == len(points):
        raise ValueError("accuracy_against_seconds: needs points, one at least with more than 0 seconds")
    _against(target, points, "time of the run, s", f"not timed alone, so left out: {untimed}" if untimed else "")
