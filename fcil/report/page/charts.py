"""Put the figures of `fcil.report.plots` into a page: as SVG whose text is text and whose colours follow the page's.

In a page of several runs every curve, point and entry of a legend knows its runs, and is hidden when none is chosen.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

from fcil.report.html import made_of

__all__ = ["Said", "chart", "inline_svg"]

Said = Sequence[tuple[str, Sequence[int]]]
"""What a chart shows of each of its lines, in words, and the numbers of the runs that the line is made of."""


def inline_svg(
    plot: Callable[..., None],
    *inputs: Any,
    label: str,
    said: Said = (),
    lines: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Draw a plot as an SVG element for a page of HTML.

    Args:
        plot: writes to its first argument, as those of `fcil.report.plots` do.
        inputs: its other arguments.
        label: tells those who do not see it what it shows.
        said: follows the label, of each line that is not hidden.
        lines: name of a line in the plot, as `fcil.report.figure.line_name` makes it -> the runs it is made of.
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
    body = re.sub(r' id="(line[\d-]+)\.[^"]*"', lambda m: made_of((lines or {}).get(m[1], ())), body)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    mark = "c" + hashlib.sha256(f"{label}{body}".encode()).hexdigest()[:8]  # else figures of a page share names
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{mark}{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}", body)
    wide = "--wide:{0}px;max-width:{0}px".format(round(1.45 * float(size[1])))
    box = f"0 0 {size[1]} {size[2]}"
    parts = [(text, " ".join(map(str, runs))) for text, runs in said]
    attributes = f' data-label="{escape(label)}" data-said="{escape(json.dumps(parts))}"' if parts else ""
    name = f"{label}: {', '.join(text for text, _ in said)}" if parts else label
    head = f'<svg class="chart" role="img" aria-label="{escape(name)}"{attributes} viewBox="{box}" style="{wide}">'
    return head + body.strip()


def chart(svg: str, caption: str, table: str, runs: Sequence[int] = ()) -> str:
    """Put a chart above its caption and, folded, the numbers that it shows; `runs` are those that it is made of."""
    numbers = f"<details><summary>Numbers: {escape(caption)}</summary>{table}</details>"
    return f"<figure{made_of(runs)}>{svg}<figcaption>{escape(caption)}</figcaption>{numbers}</figure>"
