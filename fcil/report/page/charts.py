"""Put the figures of `fcil.report.plots` into a page: as SVG whose text is text and whose colours follow the page's."""

import hashlib
import re
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import Any

__all__ = ["chart", "inline_svg"]


def inline_svg(plot: Callable[..., None], *inputs: Any, label: str) -> str:
    """Draw a plot as an SVG element for a page of HTML.

    Args:
        plot: writes to its first argument, as those of `fcil.report.plots` do.
        inputs: its other arguments.
        label: tells those who do not see it what it shows.
    """
    drawn = StringIO()
    plot(drawn, *inputs)
    text = drawn.getvalue()
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    if size is None:
        raise ValueError("inline_svg: the plot wrote no SVG")
    body = text[text.index(">", size.end()) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><").replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    mark = "c" + hashlib.sha256(f"{label}{body}".encode()).hexdigest()[:8]  # else figures of a page share names
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{mark}{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}", body)
    wide = f"max-width:{1.45 * float(size[1]):.0f}px"
    box = f"0 0 {size[1]} {size[2]}"
    return f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="{box}" style="{wide}">{body.strip()}'


def chart(svg: str, caption: str, table: str) -> str:
    """Put a chart above its caption and, folded, the numbers that it shows."""
    numbers = f"<details><summary>Numbers: {escape(caption)}</summary>{table}</details>"
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption>{numbers}</figure>"
