"""Words for people: numbers of things, one of them in the singular, and the classes that there are."""

import difflib
from collections.abc import Iterable

__all__ = ["counted", "nearest_class"]

MANY = 20
"""Most classes that a message lists."""


def counted(number: int, thing: str, several: str = "") -> str:
    """Write a number of things.

    >>> counted(1, "run"), counted(1200, "run"), counted(2, "class", "classes")
    ('1 run', '1,200 runs', '2 classes')
    """
    return f"{number:,} {thing if number == 1 else several or thing + 's'}"


def nearest_class(name: str, classes: Iterable[str]) -> str:
    """List the known classes, of many the first; suggest one only where it is the same but for a slip of the pen.

    Names of classes are often short and alike, and a wrong one is more often of another list than misspelt.

    >>> nearest_class("zerro", ["one", "zero"]), nearest_class("nine", ["one", "zero"])
    ("Did you mean 'zero'? Known: one, zero.", 'Known: one, zero.')
    """
    classes = list(classes)
    close = difflib.get_close_matches(name, classes, n=1, cutoff=0.8)
    more = f", and {len(classes) - MANY} more" if len(classes) > MANY else ""
    return f"{f'Did you mean {close[0]!r}? ' if close else ''}Known: {', '.join(classes[:MANY]) or 'none'}{more}."
