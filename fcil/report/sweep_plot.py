"""Plots of a sweep: final accuracy over the values of each setting that is swept, a panel for each value of others."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from fcil.report.figure import Mark, Target, draw, legend, line_name, mark, name_parts
from fcil.report.form import form
from fcil.report.missing_updates import missing_updates_text
from fcil.report.plots import percent_axis
from fcil.report.rows import Row, setting_text

__all__ = [
    "accuracy_in_panels", "accuracy_over_values", "draw_sweep", "measured_on", "row_titles", "same_settings",
    "sweep_panels",
]  # fmt: skip

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Label -> (mean accuracy, std) for each value; NaN where a value has no such row."""
WIDTH, TICK = 4.3, 7.0
"""Inches of a single panel beside its legend; points of the text at ticks."""


def _places(values: Sequence[str]) -> tuple[np.ndarray, bool]:
    """Place the values on the axis: at their own place if all are numbers, otherwise one after the other."""
    try:
        return np.array([float(value) for value in values]), True
    except ValueError:
        return np.arange(len(values), dtype=float), False


def _closest(places: np.ndarray) -> float:
    """The smallest distance between two neighbours, as a share of the axis."""
    gaps = np.diff(np.sort(places))
    return float(gaps.min() / gaps.sum()) if len(gaps) else 1.0


def _logarithmic(places: np.ndarray) -> bool:
    """Tell whether numbers want a logarithmic axis: two decades, or factors rather than steps, as rates have."""
    if places.min() <= 0:
        return False
    return bool(places.max() / places.min() >= 100) or 1.4 * _closest(places) < _closest(np.log(places))


def _value_axis(axes: Axes, values: Sequence[str], inches: float) -> np.ndarray:
    """Set scale and ticks of an axis of `inches` for the values; return their places."""
    places, numbers = _places(values)
    log = numbers and _logarithmic(places)
    if log:
        axes.set_xscale("log")
    room = 72 * inches * (_closest(np.log(places) if log else places) if len(places) > 1 else 1) * 0.9
    upright = room < 0.62 * TICK * max(map(len, values)) + 3
    axes.set_xticks(places, values, rotation=90 if upright else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    return places


def _draw_curves(
    axes: Axes, number: int, places: np.ndarray, curves: Curves, looks: Mapping[str, Mark], bars: bool
) -> None:
    """Draw the curves of the panel of that number."""
    order = np.argsort(places)
    for label, curve in curves.items():
        mean, std = 100 * np.array(curve).T
        look = looks[label]
        drawn = axes.errorbar(
            places[order], mean[order], np.nan_to_num(std)[order] if bars else None, color=look.colour,
            marker=look.marker, linestyle=look.dashes, capsize=2, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
        name_parts(line_name(list(looks).index(label), number), "curve", drawn.get_children())


def accuracy_over_values(target: Target, setting: str, values: Sequence[str], curves: Curves) -> None:
    """Plot the final accuracy of each row of a comparison over the swept values, with a bar of one std over seeds.

    Args:
        target: the file to write.
        setting: the setting's name.
        values: its values as texts; numbers stand at their place, on a logarithmic axis where they span two decades or
            grow by factors.
        curves: label -> (mean accuracy, std) for each value; NaN where a value has no such row.
    """
    accuracy_in_panels(target, setting, values, {"": curves})


def accuracy_in_panels(
    target: Target, setting: str, values: Sequence[str], panels: Mapping[str, Curves], columns: int = 0, note: str = ""
) -> None:
    """Plot the same in several panels with common axes and one legend.

    Args:
        target, setting, values: as in `accuracy_over_values`.
        panels: title -> curves; a label looks the same in all of them.
        columns: panels in a row; 0 for as many as fit.
        note: what a reader has to know of all accuracies.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    looks = {label: mark(i) for i, label in enumerate(labels)}
    spreads = 100 * np.array([pair for curves in panels.values() for curve in curves.values() for pair in curve])
    means, stds = spreads[:, 0], np.nan_to_num(spreads[:, 1])
    columns = columns or (2 if len(panels) == 4 else min(3, len(panels)))
    aside = 0.4 if form().narrow else 0.9 if columns == 1 else 2.0
    usual = columns * (WIDTH if columns == 1 else 2.1) + aside
    columns = max(1, min(columns, int((form().inches(usual) - aside) / 1.4)))
    rows = -(-len(panels) // columns)
    width = (form().inches(usual) - aside) / columns
    about = "; ".join(filter(None, [note, "bars: ± 1 std over seeds" if stds.any() else ""]))

    def paint(figure: Figure, axes: Axes) -> None:
        grid = [axes]
        if len(panels) > 1:
            axes.remove()
            grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())
            figure.set_layout_engine("constrained", wspace=0.06)  # ticks at the ends of two panels do not touch
            figure.suptitle(about, x=0.01, ha="left", color="0.35", fontsize=7)
        for unused in grid[len(panels) :]:
            unused.remove()
        for i, (panel, (title, curves)) in enumerate(zip(grid, panels.items(), strict=False)):
            _draw_curves(panel, i, _value_axis(panel, values, width - 0.5), curves, looks, bool(stds.any()))
            text = title if len(panels) > 1 else ", ".join(filter(None, [title, about]))
            panel.set_title(text, loc="left", color="black" if title else "0.35", fontsize=7)
            panel.set(xlabel=setting if i + columns >= len(panels) else "")
            panel.set(ylabel="" if i % columns else "final accuracy, %")
            percent_axis(panel, np.concatenate([means - stds, means + stds]))
        _add_legend(figure, looks, panels)

    height = 0 if form().narrow else 0.19 * len(labels) + 0.3
    draw(target, (form().inches(usual), max(2.8 if rows == 1 else 2.0 * rows, height)), paint)


def _add_legend(figure: Figure, looks: Mapping[str, Mark], panels: Mapping[str, Curves]) -> None:
    """Add a legend, the best label first, where there is more than one."""
    if len(looks) > 1:
        order = sorted(looks, key=lambda label: -_best(label, panels))
        marks = [looks[label] for label in order]
        handles = [Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes) for k in marks]
        legend(figure, handles, order, 4.2, [line_name(list(looks).index(label)) for label in order])


def _best(label: str, panels: Mapping[str, Curves]) -> float:
    """The highest mean accuracy of a label in any panel; -1 where it has none."""
    means = [mean for curves in panels.values() for mean, _ in curves.get(label, ())]
    return max((mean for mean in means if not np.isnan(mean)), default=-1.0)


Points = Mapping[str, Mapping[str, Any]]
"""Name of a point of the sweep -> setting -> its value there."""
Tables = Mapping[str, Sequence[Row]]
"""Name of a point -> its rows."""


def same_settings(points: Points) -> bool:
    """Tell whether every point of a sweep gives values to the same settings."""
    return len({frozenset(swept) for swept in points.values()}) <= 1


def draw_sweep(out: Path, points: Points, tables: Tables) -> list[Path]:
    """Draw sweep.png for one swept setting, sweep-SETTING.png for each of several; one where they go side by side.

    Returns:
        The paths; none where points set unlike settings: of two methods that are tuned, one may lack a setting.
    """
    if not same_settings(points):
        return []
    drawn = []
    several = len(next(iter(points.values()))) > 1
    for setting, values, panels, columns in sweep_panels(points, tables):
        name = f"sweep-{setting}.png" if several and ", " not in setting else "sweep.png"
        accuracy_in_panels(out / name, setting, values, panels, columns, measured_on(tables))
        drawn.append(out / name)
    return drawn


def measured_on(tables: Tables) -> str:
    """Say that accuracy is not of test images, where it is that in no row."""
    rows = [row for several in tables.values() for row in several]
    if all(row.held_out for row in rows):
        return "on training images that were held out"
    return "on the validation part" if all(row.evaluated_on == "validation" for row in rows) else ""


def sweep_panels(points: Points, tables: Tables) -> Iterator[tuple[str, list[str], dict[str, Curves], int]]:
    """Arrange the rows of all points for the pictures of a sweep: the arguments of `accuracy_in_panels` for each.

    There is a panel for every combination of values of the other settings; in a comparison of a single row its line in
    each combination instead. Settings that were zipped count as one, whose values are those of all. A setting with a
    single value has no picture.
    """
    texts = {name: {key: setting_text(value) for key, value in swept.items()} for name, swept in points.items()}
    values = {key: list(dict.fromkeys(text[key] for text in texts.values())) for key in next(iter(texts.values()))}
    if len(texts) < np.prod([len(several) for several in values.values()]):
        joined = ", ".join(values)
        texts = {name: {joined: ", ".join(text.values())} for name, text in texts.items()}
        values = {joined: [text[joined] for text in texts.values()]}
    titles = row_titles(tables)
    at = {tuple(text.values()): {row.label: row for row in tables[name]} for name, text in texts.items()}
    for setting in [key for key in values if len(values[key]) > 1]:
        panels: dict[str, Curves] = {}
        others = [key for key in values if key != setting]
        for combination in product(*(values[key] for key in others)):
            fixed = dict(zip(others, combination, strict=True))
            rows = [at[tuple({**fixed, setting: value}[key] for key in values)] for value in values[setting]]
            title = ", ".join(f"{key} = {value}" for key, value in fixed.items() if len(values[key]) > 1)
            panels[title] = {titles[label]: [_final(row.get(label)) for row in rows] for label in titles}
        if len(titles) == 1 and len(panels) > 1:
            panels = {next(iter(titles.values())): {title: next(iter(c.values())) for title, c in panels.items()}}
        lengths = [len(values[key]) for key in others if len(values[key]) > 1]
        aligned = len(panels) > 1 and len(lengths) > 1 and lengths[-1] <= 4
        yield setting, values[setting], panels, lengths[-1] if aligned else 0


def _final(row: Row | None) -> tuple[float, float]:
    return (row.mean[0], row.std[0]) if row else (float("nan"), float("nan"))


def row_titles(tables: Tables) -> dict[str, str]:
    """Label -> the label, with the number of updates that are missing at all points together."""
    rows = [row for several in tables.values() for row in several]
    titles = {}
    for label in dict.fromkeys(row.label for row in rows):
        rows_of_label = [row for row in rows if row.label == label]
        asked = sum(row.asked for row in rows_of_label) if all(row.asked for row in rows_of_label) else 0
        text = missing_updates_text(sum(row.missing for row in rows_of_label), asked)
        titles[label] = f"{label} ({text})" if text else label
    return titles
