"""Finds links and headings in Markdown, outside code; names headings as GitHub and the site do."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Link", "anchors", "headings", "links", "replaced", "slug", "with_lists_apart", "without_code"]

_FENCE = re.compile(r"^( *)(```+|~~~+).*?(?:^\1\2[`~]*[ ]*$|\Z)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()[^()\s]+(?=\))|(?<=\]: )\S+")
_HEADING = re.compile(r"^(#{1,6}) +(.*?) *#* *$", re.MULTILINE)
_ITEM = re.compile(r"(?:[-*+]|1\.) ")
_ID = re.compile(r"""\bid=["']([^"']+)["']|\{ *#([\w-]+)""")


class Link(NamedTuple):
    """A link as it stands in a text."""

    start: int
    """Where its target begins in the text."""
    target: str
    """A path, `#anchor`, both, or an address."""


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def without_code(text: str, *, spans: bool = True) -> str:
    """Replace code by as many spaces: fenced blocks, and with `spans` code inside a line.

    >>> without_code("see `a[0](b)` or [c](d)")
    'see           or [c](d)'
    """
    text = _FENCE.sub(_blank, text)
    return _SPAN.sub(_blank, text) if spans else text


def links(text: str) -> Iterator[Link]:
    """Yield the links and images of a text, in order.

    >>> [link.target for link in links("[a](b.md#c) ![d](e.png) `[f](g)`")]
    ['b.md#c', 'e.png']
    """
    yield from (Link(match.start(), match[0]) for match in _LINK.finditer(without_code(text)))


def replaced(text: str, new: Callable[[str], str]) -> str:
    """Replace the target of every link by `new(target)`."""
    for link in reversed(list(links(text))):
        text = text[: link.start] + new(link.target) + text[link.start + len(link.target) :]
    return text


def slug(heading: str) -> str:
    """Name a heading as GitHub does.

    >>> slug("Layers, `tokens` & [links](x.md): c_i")
    'layers-tokens--links-c_i'
    """
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def headings(text: str) -> list[str]:
    """List the headings of a page, as plain text."""
    return [re.sub(r"[`*]", "", match[2]) for match in _HEADING.finditer(without_code(text, spans=False))]


def anchors(text: str) -> set[str]:
    """Collect what a link into a page may name: its headings, the second of a name with `-1`, and every `id`."""
    prose = without_code(text, spans=False)
    found: set[str] = {a or b for a, b in _ID.findall(without_code(text))}
    seen: Counter[str] = Counter()
    for match in _HEADING.finditer(prose):
        name = slug(match[2])
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def with_lists_apart(text: str) -> str:
    r"""Put an empty line before a list that follows a paragraph: GitHub does without, the site's Markdown does not.

    >>> with_lists_apart("a:\n- b\n- c")
    'a:\n\n- b\n- c'
    """
    out: list[str] = []
    shown = without_code(text, spans=False).split("\n")
    for line, prose in zip(text.split("\n"), shown, strict=True):
        before = out[-1] if out else ""
        if _ITEM.match(prose) and before.strip() and not before.startswith(" ") and not _ITEM.match(before):
            out.append("")
        out.append(line)
    return "\n".join(out)
