"""Arguments that several commands take, checked as they are read."""

import argparse
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["at_least_1", "listed", "output_folder", "pixels", "seeds", "set_argument"]

RUNS = Path("runs")
NAME_LENGTH = 100
"""Characters of settings that the name of a folder may hold; of more there is a hash."""


def at_least_1(what: str) -> Callable[[str], int]:
    """A whole number of something, as an argument."""

    def number(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r}: must be a number of {what}, at least 1")
        return int(text)

    return number


pixels = at_least_1("pixels")


def listed(text: str) -> list[str]:
    """Words, at least one, as an argument."""
    words = [part.strip() for part in text.split(",") if part.strip()]
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r}: name at least one")
    return words


def seeds(text: str) -> list[int]:
    """Seeds, at least one, as an argument."""
    words = listed(text)
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: write seeds as 0,1,2")
    return [int(word) for word in words]


def set_argument(parser: argparse.ArgumentParser) -> None:
    """Add --set."""
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting")


def _in_a_name(text: str) -> str:
    """A setting as a part of a folder's name; where it names a method's file or class, its end and a hash."""
    key, _, value = text.partition("=")
    if key.startswith("method.") and re.search(r"[/:]", value):
        end = re.sub(r"[^\w.=,-]+", "_", value.rpartition("/")[2]).strip("_")
        return f"{key}={end}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.=,-]+", "_", text)


def output_folder(given: argparse.Namespace, before: str = "", after: str = "") -> Path:
    """Where to write: --output, or a folder of its own for each config with its --set values.

    So the same command finds the same run again, and one with other settings does not run into it.
    """
    changes = "".join(f"+{_in_a_name(text.replace(' ', ''))}" for text in sorted(given.set))
    if len(changes) > NAME_LENGTH:
        changes = f"+{hashlib.sha256(changes.encode()).hexdigest()[:12]}"
    return given.output or RUNS / f"{before}{given.config.stem}{changes}{after}"
