"""Words for people: numbers of things, one of them in the singular."""

__all__ = ["counted"]


def counted(number: int, thing: str, several: str = "") -> str:
    """Write a number of things.

    >>> counted(1, "run"), counted(1200, "run"), counted(2, "class", "classes")
    ('1 run', '1,200 runs', '2 classes')
    """
    return f"{number:,} {thing if number == 1 else several or thing + 's'}"
