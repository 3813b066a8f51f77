"""Define and check command-line arguments that several commands share."""

import argparse
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["at_least_1", "comma_separated", "output_folder", "pixels", "seeds", "set_argument"]

RUNS = Path("runs")
NAME_LENGTH = 100
"""Most characters of settings in a folder's name; longer settings are replaced by a hash."""


def at_least_1(what: str) -> Callable[[str], int]:
    """Make a parser of a whole number of at least 1; `what` is counted, for the message."""

    def number(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r}: must be a number of {what}, at least 1")
        return int(text)

    return number


pixels = at_least_1("pixels")


def comma_separated(text: str) -> list[str]:
    """Parse words separated by commas, at least one."""
    words = [part.strip() for part in text.split(",") if part.strip()]
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r}: name at least one")
    return words


def seeds(text: str) -> list[int]:
    """Parse seeds separated by commas, at least one."""
    words = comma_separated(text)
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: write seeds as 0,1,2")
    return [int(word) for word in words]


def set_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --set, which overrides one setting and may be repeated."""
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting")


def _in_a_name(text: str) -> str:
    """Write a setting as a part of a folder's name; where it names a method's file or class, its end and a hash."""
    key, _, value = text.partition("=")
    if key.startswith("method.") and re.search(r"[/:]", value):
        end = re.sub(r"[^\w.=,-]+", "_", value.rpartition("/")[2]).strip("_")
        return f"{key}={end}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.=,-]+", "_", text)


def output_folder(args: argparse.Namespace, before: str = "", after: str = "") -> Path:
    """Choose the folder to write to: --output, or one named by the config and its --set values.

    So the same command finds the same run again, and one with other settings does not run into it.
    """
    changes = "".join(f"+{_in_a_name(text.replace(' ', ''))}" for text in sorted(args.set))
    if len(changes) > NAME_LENGTH:
        changes = f"+{hashlib.sha256(changes.encode()).hexdigest()[:12]}"
    return args.output or RUNS / f"{before}{args.config.stem}{changes}{after}"
