"""Style of all plots, one palette and one legend, and how they are saved: a file appears whole or not at all."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fcil.files import replacing
from fcil.report.form import form

__all__ = [
    "DPI", "SMALL", "Mark", "Target", "draw", "drawn_files", "label_indices", "legend", "line_name", "mark",
    "name_parts",
]  # fmt: skip

Target = Path | StringIO
"""Where a plot goes: a file, whose suffix is replaced by that of each format of `fcil.report.form`; or SVG as text."""

DPI = 200
SMALL = 6.5
"""Points; the smallest text of any picture. Figures are drawn at their printed size, so it stays readable there."""
STYLE: dict[str, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.title_fontsize": 7, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1.4, "lines.markersize": 4.5,
    "grid.color": "0.88", "grid.linewidth": 0.5, "axes.axisbelow": True, "text.parse_math": False,
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "fcil",
}  # fmt: skip

METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}
"""Metadata of each format, without dates and programs' versions, which would make equal figures differ."""

# Okabe and Ito's palette without its yellow, which vanishes on white, dark and light in turn. Seven colours, six
# markers and five dashes: 210 lines all differ, and neighbours differ in all three, also in grey.
COLOURS = ("#0072B2", "#D55E00", "#000000", "#56B4E9", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ((0, ()), (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


class Mark(NamedTuple):
    """Colour, marker and dashes that tell one series of a plot from the others."""

    colour: str
    marker: str
    dashes: tuple[int, tuple[float, ...]]


def mark(index: int) -> Mark:
    """The mark of the series at `index`, the same in every plot."""
    return Mark(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])


def label_indices(count: int, inches: float, points: float = SMALL + 2) -> range:
    """Choose which of `count` evenly spread ticks get a label, if a label needs `points` of the axis's `inches`."""
    most = max(1, int(inches * 72 / points))
    return range(0, count, -(-count // most)) if count else range(0)


def line_name(index: int, part: int | None = None) -> str:
    """Name the series at `index` of a plot, or one seed or panel of it, for `name_parts`."""
    return f"line{index}" if part is None else f"line{index}-{part}"


def name_parts(line: str, what: str, artists: Iterable[Artist]) -> None:
    """Say in an SVG which series its shapes belong to, by ids `LINE.WHATn`: a page of HTML hides those not chosen."""
    for number, artist in enumerate(artists):
        artist.set_gid(f"{line}.{what}{number}")


def legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], ems: float, lines: Sequence[str] = ()
) -> None:
    """Add a legend right of the axes, its samples `ems` long, long labels folded; below where the figure is narrow.

    Args:
        lines: for each label the name of its series, as `line_name` makes it.
    """
    folded = [textwrap.fill(label, 26) for label in labels]
    look: dict[str, Any] = {"handlelength": ems, "labelspacing": 0.6}
    if form().narrow:
        columns = 2 if max(map(len, labels)) <= 18 and len(labels) > 1 else 1
        high = sum(label.count("\n") + 1 for label in folded) / columns
        figure.set_figheight(figure.get_figheight() + 0.17 * high + 0.1)
        look.update(loc="outside lower left", ncols=columns)
    drawn = figure.legend(handles, folded, **{"loc": "outside right upper", **look})
    for line, sample, text in zip(lines, drawn.legend_handles, drawn.get_texts(), strict=False):
        name_parts(line, "key", [artist for artist in (sample, text) if artist])


def drawn_files(path: Path) -> list[Path]:
    """Name the files that `draw` writes for a path: one of each format."""
    return [path.with_suffix(f".{kind}") for kind in form().formats]


def draw(target: Target, size: tuple[float, float], paint: Callable[[Figure, Axes], None]) -> None:
    """Call `paint` with an empty figure of `size` inches and save it in each format, written aside and then renamed.

    The same input gives the same bytes with the same matplotlib: its own defaults, no user's style file, no date.
    """
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure, figure.add_subplot())
        if isinstance(target, StringIO):
            figure.savefig(target, format="svg", metadata=METADATA["svg"], transparent=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in drawn_files(target):
            _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix[1:]
    with replacing(path) as aside:
        figure.savefig(aside, format=kind, dpi=DPI, metadata=METADATA[kind])
