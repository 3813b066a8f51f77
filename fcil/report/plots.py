"""Plot runs: arrays in, one figure out. Accuracies are shares between 0 and 1 and are shown in percent."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from fcil.report.figure import SMALL, Target, draw, label_indices, legend, line_name, mark, name_parts
from fcil.report.form import form
from fcil.words import counted

__all__ = ["accuracy_heatmap", "accuracy_over_tasks", "bubble_areas", "class_holders", "mean_and_std", "percent_axis"]

COLUMN = 3.4
"""Inches of one column of print."""


def mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample std over seeds (rows) of the finite values; the std is NaN where fewer than two are finite."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    mean = np.where(finite, values, 0).sum(0) / np.where(count, count, np.nan)
    squares = (np.where(finite, values - mean, 0) ** 2).sum(0)
    return mean, np.sqrt(squares / np.where(count > 1, count - 1, np.nan))


BANDS, THIN = 12, 6
"""The most curves of which bands of one std can be told apart, and lines of single seeds."""


def _curve(axes: Axes, index: int, seeds: np.ndarray, thin: bool, band: bool) -> None:
    """Plot one method: if wanted thin lines of its seeds and a band of one std about their mean; the mean on top."""
    look = mark(index)
    tasks = np.arange(1, seeds.shape[1] + 1)
    mean, std = mean_and_std(seeds)
    if len(seeds) > 1 and thin:
        for seed, line in enumerate(axes.plot(tasks, seeds.T, color=look.colour, linewidth=0.5, alpha=0.55)):
            name_parts(line_name(index, seed), "seed", [line])
    if len(seeds) > 1 and band:
        area = axes.fill_between(tasks, mean - std, mean + std, color=look.colour, alpha=0.13, linewidth=0)
        name_parts(line_name(index), "band", [area])
    middle = axes.plot(
        tasks, mean, color=look.colour, linestyle=look.dashes, marker=look.marker,
        markeredgecolor="white", markeredgewidth=0.5, markevery=max(1, len(tasks) // 20),
    )  # fmt: skip
    name_parts(line_name(index), "mean", middle)


def percent_axis(axes: Axes, values: np.ndarray) -> None:
    """Show 0 to 100; where the form is zoomed, only the values with a margin, ten points at least."""
    axes.grid(axis="y")
    if not form().zoom:
        axes.set_ylim(-2, 102)  # whole markers at both ends
        axes.yaxis.set_major_locator(MultipleLocator(20))
        return
    low, high = np.nanmin(values), np.nanmax(values)
    air = max(0.06 * (high - low), (10 - (high - low)) / 2, 0.5)
    axes.set_ylim(max(low - air, -1), min(high + air, 101))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _about_seeds(counts: Sequence[int]) -> str:
    if max(counts) < 2:
        return ""
    seeds = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    spread = ", ± 1 std" if len(counts) <= BANDS else "; their spread is in the table"
    return f"mean of {seeds} seeds{spread}{'; thin: single seeds' if len(counts) <= THIN else ''}"


def accuracy_over_tasks(target: Target, curves: Mapping[str, np.ndarray]) -> None:
    """Plot pooled accuracy over all classes seen so far, after each task.

    Args:
        target: the file to write.
        curves: label -> (tasks,), or (seeds, tasks); NaN where a run has not come that far.
    """
    if not curves:
        raise ValueError("accuracy_over_tasks: no curves")
    values = {label: 100 * np.atleast_2d(np.asarray(curve, float)) for label, curve in curves.items()}

    def paint(figure: Figure, axes: Axes) -> None:
        for index, seeds in enumerate(values.values()):
            _curve(axes, index, seeds, thin=len(values) <= THIN, band=len(values) <= BANDS)
        about = _about_seeds([len(seeds) for seeds in values.values()])
        if len(values) == 1:
            axes.set_title(", ".join(filter(None, [next(iter(values)), about])), loc="left")
        else:
            axes.set_title(about, loc="left", color="0.35", fontsize=7)
            looks = map(mark, range(len(values)))
            handles = [Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes) for k in looks]
            final = [mean_and_std(seeds)[0][-1] for seeds in values.values()]
            order = sorted(range(len(final)), key=lambda i: -np.nan_to_num(final[i], nan=-1.0))
            names = [list(values)[i] for i in order]
            legend(figure, [handles[i] for i in order], names, 4.2, [line_name(i) for i in order])
        last = max(seeds.shape[1] for seeds in values.values())
        axes.set_xlim(1 - 0.03 * last, last + 0.03 * last)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="tasks learned", ylabel="accuracy on all classes seen, %")
        percent_axis(axes, np.concatenate([seeds.ravel() for seeds in values.values()]))

    beside = 0 if form().narrow else 0.19 * len(values) + 0.3  # the legend
    size = (COLUMN, 2.4) if len(values) == 1 else (5.2, max(2.4 if form().narrow else 2.8, beside))
    draw(target, (form().inches(size[0]), size[1]), paint)


def _annotate(axes: Axes, percent: np.ndarray, colours: np.ndarray, cell: float) -> None:
    """Write values into cells of `cell` points: with one decimal where it fits, as whole numbers, or not at all."""
    decimals = 1 if cell >= 3.1 * SMALL else 0
    if cell < 1.9 * SMALL:
        return
    bright = colours[..., :3] @ [0.299, 0.587, 0.114] > 0.5
    for (row, column), value in np.ndenumerate(percent):
        if np.isfinite(value):
            axes.text(
                column + 1, row + 1, f"{value:.{decimals}f}", ha="center", va="center", fontsize=SMALL,
                color="black" if bright[row, column] else "white",
            )  # fmt: skip


def accuracy_heatmap(target: Target, matrix: np.ndarray, title: str = "") -> None:
    """Plot accuracy on each task (columns) after each task (rows), on a scale of 0 to 100 % in every picture.

    Args:
        target: the file to write.
        matrix: (tasks done, tasks), NaN where a task was not seen yet.
        title: title of the plot.
    """
    percent = 100 * np.asarray(matrix, float)
    rows, columns = percent.shape
    width = form().inches(min(7.0, max(2.3, min(COLUMN, 1.1 + 0.6 * columns), 1.1 + 0.34 * columns)))
    cell = (width - 1.1) / columns
    high = min(cell, 0.5) if form().width else cell  # a wide figure of few tasks need not be a high one

    def paint(figure: Figure, axes: Axes) -> None:
        extent = (0.5, columns + 0.5, rows + 0.5, 0.5)
        image = axes.imshow(percent, cmap="cividis", norm=Normalize(0, 100), extent=extent, interpolation="nearest")
        axes.set_aspect(high / cell)
        _annotate(axes, percent, np.asarray(image.to_rgba(percent)), cell * 72)
        axes.set_xticks([i + 1 for i in label_indices(columns, cell * columns, 12)])
        axes.set_yticks([i + 1 for i in label_indices(rows, high * rows, 10)])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="accuracy on task", ylabel="after learning task")
        axes.set_title(title, loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.set_title("%", fontsize=7)

    draw(target, (width, max(1.4, high * rows + 0.75)), paint)


def bubble_areas(counts: np.ndarray, largest: float) -> np.ndarray:
    """Compute areas proportional to counts, in the unit of `scatter` (the square of the diameter, in points).

    Args:
        counts: numbers of at least 0; if all are 0, so are the areas.
        largest: the area of the highest count.
    """
    highest = counts.max(initial=0)
    return largest * counts / highest if highest else np.zeros(counts.shape)


def round_counts(highest: int) -> list[int]:
    """Choose up to three round numbers for a legend of sizes: about the highest count, a quarter, a sixteenth."""
    chosen = []
    for target in (highest, highest / 4, highest / 16):
        if target >= 1:
            ten = 10 ** int(np.floor(np.log10(target)))
            chosen.append(next(step * ten for step in (5, 2, 1) if step * ten <= target))
    return sorted(set(chosen), reverse=True)


def _holders_axes(axes: Axes, names: Sequence[str], task_sizes: Sequence[int], inches: tuple[float, float]) -> None:
    """Set ticks, tasks and grid of `class_holders`, whose axes are `inches` wide and high."""
    clients, classes = int(axes.get_ylim()[0] + 0.5), len(names)
    ends = np.cumsum(task_sizes)
    labelled = list(label_indices(classes, inches[0]))
    rotation = 0 if max(map(len, names)) <= 2 else 90
    axes.set_xticks(labelled, [names[i] for i in labelled], rotation=rotation, fontsize=SMALL)
    axes.set_yticks(list(label_indices(clients, inches[1])))
    axes.set_ylabel("client")
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.spines[["left", "bottom"]].set_visible(False)
    for end in [0, *ends]:
        axes.axvline(end - 0.5, color="0.55", linewidth=0.6, zorder=0.5)
    top = axes.secondary_xaxis("top")
    tasks = list(label_indices(len(ends), inches[0], 14))
    top.set_xticks([ends[i] - (task_sizes[i] + 1) / 2 for i in tasks], [str(i + 1) for i in tasks])
    top.tick_params(length=0, pad=1)
    top.spines[:].set_visible(False)
    top.set_xlabel("task")


def class_holders(target: Target, counts: np.ndarray, class_names: Sequence[str], task_sizes: Sequence[int]) -> None:
    """Plot which client holds which classes, as bubbles whose areas are the numbers of training images.

    Args:
        target: the file to write.
        counts: (clients, classes), classes in their order of arrival.
        class_names: names of all classes, in the same order.
        task_sizes: number of classes of each task.
    """
    clients, classes = counts.shape
    if len(class_names) != classes or sum(task_sizes) != classes:
        raise ValueError(f"class_holders: {classes} classes, {len(class_names)} names, tasks of {sum(task_sizes)}")
    width = float(np.clip(0.26 * classes, COLUMN - 0.5, 6.5 if classes <= 100 else 9.5))
    width = form().inches(width + 0.5) - 0.5
    height = min(0.26 * clients, float(np.clip(0.11 * clients, 2.2, 6.5)))
    cell = 72 * width / classes, 72 * height / clients
    largest = min(0.85 * max(cell) ** 2, 1.4 * cell[0] * cell[1], 24.0**2)
    names = [name if len(name) <= 18 else name[:17] + "…" for name in class_names]

    def paint(figure: Figure, axes: Axes) -> None:
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(clients - 0.5, -0.5))
        _holders_axes(axes, names, task_sizes, (width, height))
        rows, columns = np.nonzero(counts)
        order = np.argsort(-counts[rows, columns], kind="stable")
        areas = bubble_areas(counts, largest)[rows, columns][order]
        axes.scatter(
            columns[order], rows[order], s=areas, color=mark(0).colour, alpha=0.75, linewidths=0, clip_on=False
        )
        sizes = round_counts(int(counts.max(initial=0)))
        diameters = [float(np.sqrt(largest * size / counts.max())) for size in sizes]
        look: dict[str, Any] = {"ls": "", "marker": "o", "color": mark(0).colour, "alpha": 0.75, "markeredgewidth": 0}
        handles = [Line2D([], [], markersize=d, **look) for d in diameters]
        ems = max([7.0, *diameters]) / 7
        space = {"handlelength": ems, "borderpad": ems / 2, "handletextpad": 0.5, "columnspacing": 1.5}
        figure.legend(handles, [counted(size, "image") for size in sizes], loc="outside lower right", ncols=3, **space)

    below = 0.06 * max(map(len, names)) + float(np.sqrt(largest)) / 72
    draw(target, (width + 0.5, height + 0.75 + below), paint)
