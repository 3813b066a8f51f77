"""Reads which values of settings are to be tried: lists of them, and ranges in which values are searched for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcil.errors import ConfigError
from fcil.options import describe, split_list, toml_or_text
from fcil.registry import method_class

__all__ = ["Range", "Space", "rounded", "space_of", "written"]

DIGITS = 3
"""Significant digits of a value that is searched for: nobody needs more, and folders are named by it."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included: whole ones if both are."""

    low: float
    high: float
    log: bool = False
    """Whether their logarithms are equally likely, in place of the numbers."""

    @property
    def whole(self) -> bool:
        """Tell whether only whole numbers are in it."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, Sequence[Any] | Range]
"""Setting, section.key -> its values, or their range."""


def rounded(value: float, within: Range) -> float:
    """A value with few digits, which stays in its range.

    >>> rounded(0.0123456, Range(1e-3, 1e-1)), rounded(0.9996, Range(0.1, 0.9996))
    (0.0123, 0.9996)
    """
    return value if within.whole else min(max(float(f"{value:.{DIGITS}g}"), within.low), within.high)


def _range(text: str, words: str) -> Range | None:
    """The range that words describe, None where they are a list of values.

    Raises:
        ConfigError: a range without numbers in it, or with logarithms of numbers that are not positive.
    """
    match = _RANGE.fullmatch(words)
    if match is None:
        return None
    low, high = (int(word) if re.fullmatch(r"[-+]?\d+", word) else float(word) for word in match.groups()[:2])
    if low >= high or (match[3] and low <= 0):
        raise ConfigError(f"--grid {text}: must be section.key=LOW..HIGH, LOW below HIGH, and above 0 with :log")
    return Range(low, high, bool(match[3]))


def space_of(name: str, texts: Sequence[str]) -> tuple[dict[str, Sequence[Any] | Range], list[str]]:
    """The values to try of all settings that a method has, and the names of settings that it lacks.

    Args:
        name: the method, as the registry finds it.
        texts: `section.key=value,value`, or `section.key=LOW..HIGH`, with `:log` after it for rates and the like.

    Raises:
        ConfigError: a text is no setting with values, or two are of one setting.
    """
    keys = {setting.name for setting in describe(method_class(name))}
    values: dict[str, Sequence[Any] | Range] = {}
    for text in texts:
        key, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or "." not in key or key in values:
            raise ConfigError(f"--grid {text}: must be section.key=value,value, once for each setting")
        values[key] = _range(text, rest) or [toml_or_text(word) for word in split_list(rest)]
    lacking = [key for key in values if key.startswith("method.") and key.removeprefix("method.") not in keys]
    return {key: value for key, value in values.items() if key not in lacking}, lacking


def written(space: Space) -> dict[str, Any]:
    """Write a space as what JSON can hold."""
    return {
        key: [value.low, value.high, "log" if value.log else "linear", "whole" if value.whole else "real"]
        if isinstance(value, Range) else {"values": list(value)}
        for key, value in space.items()
    }  # fmt: skip
