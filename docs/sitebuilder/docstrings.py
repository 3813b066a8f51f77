"""Writes docstrings as Markdown: for the pages of methods, and of the Python API.

The project's docstrings are plain text with code in backticks. Indented blocks are equations or listings, examples
begin with `>>>`, and one entry of `Args:` may describe several parameters.
"""

import re
from collections.abc import Iterator
from inspect import cleandoc

__all__ = ["escaped", "markdown"]

_SECTION = re.compile(r"(Args|Raises|Returns|Yields|Attributes):$")
_SEVERAL = re.compile(r"    (\w+(?:, \w+)+): (.*)")
_ARXIV = re.compile(r"arXiv[:\s]+(\d{4}\.\d{4,5})")
_CODE = re.compile(r"(`[^`]*`)")


def escaped(text: str) -> str:
    """Escape what Markdown would read as markup, outside of code, and link arXiv's papers."""

    def plain(part: str) -> str:
        part = re.sub(r"([*\[\]])", r"\\\1", part.replace("&", "&amp;").replace("<", "&lt;"))
        return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", part)

    return "".join(part if i % 2 else plain(part) for i, part in enumerate(_CODE.split(text)))


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Cut a docstring into runs of lines: `text`, `listing` (indented), `example` and `entries` of a section."""
    kind, block, in_section = "text", list[str](), False
    for line in lines:
        blank, indented = not line.strip(), line.startswith("    ")
        if _SECTION.match(line):
            now, in_section = "text", True
        elif blank:
            now = "text" if kind == "example" else kind
        elif indented:
            now = "entries" if in_section else "listing"
        else:
            in_section = False
            now = "example" if line.startswith(">>>") or kind == "example" else "text"
        if now != kind:
            yield kind, block
            kind, block = now, []
        block.append(line)
    yield kind, block


def _entries(block: list[str]) -> Iterator[str]:
    """Give every parameter an entry of its own."""
    names: list[str] = []
    for i, line in enumerate(block):
        several = _SEVERAL.match(line)
        if several:
            rest = []
            for further in block[i + 1 :]:
                if not further.startswith("        "):
                    break
                rest.append(further)
            names = several[1].split(", ")
            for name in names[:-1]:
                yield from (f"    {name}: {escaped(several[2])}", *map(escaped, rest))
            yield f"    {names[-1]}: {escaped(several[2])}"
        else:
            yield escaped(line)


def markdown(doc: str) -> str:
    """Write a docstring as Markdown; sections such as `Args:` stay as they are."""
    out: list[str] = []
    for kind, block in _blocks(cleandoc(doc).splitlines()):
        if kind == "text":
            out += map(escaped, block)
        elif kind == "entries":
            out += _entries(block)
        else:
            listing = cleandoc("\n" + "\n".join(block)) if kind == "listing" else "\n".join(block)
            out += ["", f"```{'text' if kind == 'listing' else 'pycon'}", listing.strip("\n"), "```", ""]
    return "\n".join(out)
