"""Arguments that several commands take, checked as they are read."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fcil.engine.folders import run_folder

__all__ = ["at_least_1", "listed", "output_folder", "pixels", "seeds", "set_argument"]


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


def output_folder(given: argparse.Namespace, before: str = "", after: str = "") -> Path:
    """Where to write: --output, or a folder of its own for each config with its --set values."""
    return given.output or run_folder(given.config.stem, given.set, before, after)
