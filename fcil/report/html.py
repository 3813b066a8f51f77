"""Make tables for notebooks: plain HTML with a caption and headed rows and columns, which screen readers can tell."""

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table whose first column names its rows; every text is escaped.

    Args:
        head: the names of all columns; none for a table without them.
        rows: texts, the row's name first.
    """
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    lines = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        + "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    above = f"<thead><tr>{heads}</tr></thead>" if head else ""
    return f"<table><caption>{escape(caption)}</caption>{above}<tbody>{lines}</tbody></table>"
