"""Parts of a page: sections, folds, tables that scroll, and matrices shown by colour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from fcil.report.html import Cell, Shade, html_table, made_of

__all__ = ["Section", "charts", "fold", "listing", "matrix_table", "paragraph", "scroll_table", "shades"]

FIT, MUTE = 14, 36
"""Columns from which a matrix is squeezed to the page's width, and from which its numbers are shown only if asked."""


@dataclass(frozen=True)
class Section:
    """A headed section of a page; without a body it is left out."""

    title: str
    body: str
    runs: Sequence[int] = ()
    """Numbers of the runs that it is made of, where it is to be hidden when none of them is chosen."""

    def html(self, anchor: str, level: int = 2, part_of: str = "") -> str:
        """Write the section, whose heading names it, with an anchor for links.

        Args:
            part_of: id of what names it together with the heading, where others have the same heading.
        """
        if not self.body:
            return ""
        heading = f'<h{level} id="{anchor}-h">{escape(self.title)}</h{level}>'
        names = f"{part_of} {anchor}-h".strip()
        return f'<section id="{anchor}" aria-labelledby="{names}"{made_of(self.runs)}>{heading}{self.body}</section>'


def paragraph(text: str, look: str = "dim") -> str:
    """Write a line of text; nothing where there is none."""
    return f'<p class="{look}">{escape(text)}</p>' if text else ""


def charts(parts: Sequence[str]) -> str:
    """Put charts and small tables side by side, as far as there is room; nothing where there are none."""
    inner = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div class="charts">{inner}</div>' if inner else ""


def fold(summary: str, body: str, look: str = "") -> str:
    """Hide a part behind a line that opens it; nothing where there is no part. With the look `printed` paper has it."""
    return f'<details class="{look}"><summary>{escape(summary)}</summary>{body}</details>' if body else ""


def scroll_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    look: str = "plain",
    groups: Sequence[tuple[str, int]] = (),
    facts: Sequence[Mapping[str, str]] = (),
    runs: Sequence[Sequence[int]] = (),
) -> str:
    """Make a table that scrolls in itself, also by the keyboard, where it is larger than the page; see `html_table`."""
    if not rows:
        return ""
    table = html_table(caption, head, rows, look=look, groups=groups, facts=facts, runs=runs)
    return f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(caption)}">{table}</div>'


def listing(caption: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Make a table of names and texts."""
    return scroll_table(caption, (), pairs, "list")


def shades(values: np.ndarray, texts: np.ndarray, highest: float = 1.0) -> list[list[Shade]]:
    """Make cells whose colour is the value's share of the highest one; empty where a value is NaN."""
    return [
        [
            Shade("" if np.isnan(value) else str(text), float(value / highest) if highest else 0.0)
            for value, text in line
        ]
        for line in (zip(row, words, strict=True) for row, words in zip(values, texts, strict=True))
    ]


def matrix_table(
    caption: str,
    corner: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Make a table that is read by its colours; one of many columns fits the page, its numbers small or on demand."""
    look = "shaded" + (" fit" if len(columns) > FIT else "") + (" mute" if len(columns) > MUTE else "")
    table = scroll_table(caption, [corner, *columns], [[name, *cells] for name, cells in rows], look, groups)
    box = '<label><input type="checkbox" class="numbers"> show the numbers</label>' if len(columns) > MUTE else ""
    return f'<div class="matrix">{box}{table}</div>' if table else ""
