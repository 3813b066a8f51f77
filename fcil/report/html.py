"""Make tables in HTML, with a caption and headed rows and columns, which screen readers can tell.

For notebooks they stand alone; a report's page gives them a look, which its style sheet knows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

__all__ = ["Cell", "Link", "Shade", "html_table", "made_of"]


@dataclass(frozen=True)
class Shade:
    """A cell of a report's page whose number is also shown by colour, or by the length of a bar."""

    text: str
    share: float
    """Share of the darkest colour or the longest bar; from -1 for colours with two ends; NaN for none."""
    kind: Literal["heat", "bar"] = "heat"


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere."""

    text: str
    target: str
    spoken: str = ""
    """What a screen reader says in its place, where the text alone does not tell it from other links."""


Cell = str | Shade | Link
"""A text, which is escaped; or one with a shade or a link."""


def _inner(cell: Cell) -> str:
    if isinstance(cell, Link):
        spoken = f' aria-label="{escape(cell.spoken)}"' if cell.spoken else ""
        return f'<a href="{escape(cell.target)}"{spoken}>{escape(cell.text)}</a>'
    return escape(cell if isinstance(cell, str) else cell.text)


def _cell(cell: Cell, style: str) -> str:
    if not isinstance(cell, Shade):
        return f"<td{style}>{_inner(cell)}</td>"
    if np.isnan(cell.share) or not cell.share:
        return f"<td>{escape(cell.text)}</td>"
    kind = "bar" if cell.kind == "bar" else "heat" if cell.share > 0 else "heat below"
    return f'<td class="{kind}" style="--v:{100 * abs(cell.share):.3g}%">{escape(cell.text)}</td>'


def made_of(runs: Iterable[int]) -> str:
    """Write the attribute that hides an element of a page when none of the runs that it is made of is chosen."""
    text = " ".join(map(str, runs))
    return f' data-runs="{text}"' if text else ""


def _head(text: str, scope: str, attributes: str = "") -> str:
    """Write a cell of the head of a table; one without a text, in its corner, is the head of nothing."""
    return f'<th scope="{scope}"{attributes}>{escape(text)}</th>' if text else f"<td{attributes}></td>"


def html_table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    look: str = "",
    groups: Sequence[tuple[str, int]] = (),
    facts: Sequence[Mapping[str, str]] = (),
    runs: Sequence[Sequence[int]] = (),
) -> str:
    """Make a table whose first column names its rows; every text is escaped.

    Args:
        head: the names of all columns; none for a table without them.
        rows: cells, the row's name first.
        look: classes for a style sheet; without one, cells are aligned by attributes of their own.
        groups: text and number of columns of a row of heads above the others.
        facts: for each row, by which the run is chosen that it tells of.
        runs: for each row, the numbers of the runs that it is made of; it is hidden when none of them is chosen.
    """
    left, right = ("", "") if look else (' style="text-align:left"', ' style="text-align:right"')
    lines = []
    for number, (name, *cells) in enumerate(rows):
        attributes = f' data-facts="{escape(json.dumps(dict(facts[number])))}"' if facts else ""
        attributes += made_of(runs[number]) if runs else ""
        cells_text = "".join(_cell(cell, right) for cell in cells)
        lines.append(f'<tr{attributes}><th scope="row"{left}>{_inner(name)}</th>{cells_text}</tr>')
    above = "".join(_head(text, "colgroup", f' colspan="{count}"') for text, count in groups)
    heads = "".join(_head(text, "col") for text in head)
    top = "".join(f"<tr>{line}</tr>" for line in (above, heads) if line)
    top = f"<thead>{top}</thead>" if top else ""
    opening = f'<table class="{look}">' if look else "<table>"
    return f"{opening}<caption>{escape(caption)}</caption>{top}<tbody>{''.join(lines)}</tbody></table>"
