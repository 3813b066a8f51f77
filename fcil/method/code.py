"""Read from a function's code which names it looks up."""

import inspect
from collections.abc import Iterator, Sequence
from types import CodeType

from fcil.errors import ConfigError

__all__ = ["bypassing", "check_merge", "names_used"]

MERGES = ("merge", "merge_sums")


def names_used(code: CodeType) -> Iterator[str]:
    """Yield the names that a function looks up, those inside its own functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_used(constant)


def bypassing(kind: type, base: type) -> str | None:
    """Name the function of a class that merges and never asks its parents to; None where all do, as far as code tells.

    Args:
        base: the class whose `merge_sums` has to be reached: it and its own parents are not looked at.
    """
    for owner in kind.__mro__[: kind.__mro__.index(base)]:
        for name in MERGES:
            code = getattr(inspect.unwrap(vars(owner)[name]), "__code__", None) if name in vars(owner) else None
            if code is not None and not {*MERGES, "_next_round"} & set(names_used(code)):
                return f"{owner.__name__}.{name}"
    return None


def check_merge(kind: type, base: type, beside: Sequence[str]) -> None:
    """Refuse a merge of a subclass that does without the base's, where that does more than take a mean.

    Args:
        beside: what the base's merge does beside the mean, in words.

    Raises:
        ConfigError: names the function, and what it leaves out.
    """
    if beside and (function := bypassing(kind, base)):
        name = function.rpartition(".")[2]
        raise ConfigError(
            f"{function} merges without asking super().{name}, and leaves out {' and '.join(beside)}, without a word: "
            f"begin with after = super().{name}(...) and put arrays in their place, "
            "Modules.of(after).replaced(...); or choose settings that have neither"
        )
