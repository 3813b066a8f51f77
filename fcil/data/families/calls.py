"""Read the part of `data.name` behind the colon where a set has settings of its own: `DTD(partition = 2)`."""

from typing import Any

from fcil.options import parse_call

__all__ = ["call"]


def call(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """Split `NAME` or `NAME(key = value, ...)`, the values in TOML; names may have slashes.

    Raises:
        ConfigError: it is written otherwise.
    """
    name, bracket, rest = text.partition("(")
    settings = parse_call(f"set({rest}", where, "NAME, or NAME(key = value)")[1] if bracket else {}
    return name.strip(), settings
