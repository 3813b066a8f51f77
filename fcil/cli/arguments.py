"""Define and check command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fcil.engine.folders import run_folder
from fcil.errors import ConfigError
from fcil.options import split_list
from fcil.report.form import FORMATS, WIDTHS, Form

if TYPE_CHECKING:
    from fcil.config import Config

__all__ = [
    "at_least_1", "comma_separated", "figure_arguments", "figure_form", "methods", "output_folder", "overrides",
    "pixels", "seeds", "set_argument", "share", "sweep_argument", "sweep_note", "whole",
]  # fmt: skip


def at_least_1(what: str) -> Callable[[str], int]:
    """Make a parser of a whole number of at least 1; `what` is counted, for the message."""

    def number(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r}: must be a number of {what}, at least 1")
        return int(text)

    return number


def whole(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, at least 0")
    return int(text)


def share(text: str) -> float:
    """Parse a share, from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a share from 0 to 1, as 0.8 for 80 %")
    return number


pixels = at_least_1("pixels")


def comma_separated(text: str) -> list[str]:
    """Parse words separated by commas, at least one."""
    words = [part.strip() for part in text.split(",") if part.strip()]
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r}: name at least one")
    return words


def methods(text: str) -> list[str]:
    """Parse methods separated by commas, at least one; commas inside brackets belong to a method's settings."""
    words = [part for part in split_list(text) if part]
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
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                        help="set one setting, over the file's; may be repeated (fcil settings)")  # fmt: skip


def sweep_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --sweep, which names the values of one setting and may be repeated."""
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="SECTION.KEY=A,B",
        help="values of one setting to compare at; several --sweep: at all their combinations, or side by side with "
        "--sweep zip=true",
    )  # fmt: skip


def figure_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that draws: file formats, a width for print, and zoomed axes."""
    parser.add_argument(
        "--format", type=comma_separated, default=["png"], metavar="A,B", dest="formats",
        help=f"file formats of the plots, of {', '.join(FORMATS)} (default: png)",
    )  # fmt: skip
    widths = ", ".join(f"{name} {inches} in" for name, inches in WIDTHS.items())
    parser.add_argument("--width", choices=WIDTHS, help=f"of the plots, for print: {widths} (default: as suits each)")
    parser.add_argument(
        "--zoom", action="store_true", help="accuracy axes close around the values (default: from 0 to 100 %%)"
    )


def figure_form(args: argparse.Namespace) -> Form:
    """Read the form of figures; that of a command without these options is the default.

    Raises:
        ConfigError: a format that is not known.
    """
    formats = tuple(dict.fromkeys(getattr(args, "formats", Form.formats)))
    return Form(formats, getattr(args, "width", None) or "", getattr(args, "zoom", False))


def output_folder(args: argparse.Namespace, before: str = "", after: str = "") -> Path:
    """Choose the folder to write to: --output, or one named by the config and its --set and --sweep values."""
    return args.output or run_folder(args.config.stem, [*args.set, *getattr(args, "sweep", [])], before, after)


def sweep_note(args: argparse.Namespace, config: Config) -> str:
    """Say with which values of the file's sweep a single run goes, unless --set names them; empty without a sweep."""
    from fcil.config import flat_settings, swept_settings

    given = {text.partition("=")[0].strip() for text in args.set}
    values = flat_settings(config)
    told = [f"{key} = {values[key]}" for key in sorted(swept_settings(args.config) - given) if key in values]
    return f"[sweep] is for fcil compare; this is one run, with {', '.join(told)}" if told else ""


def overrides(args: argparse.Namespace) -> list[str]:
    """The values of --set, and those of --exchange, --workers, --ray-address and --log as settings.

    Raises:
        ConfigError: --ray-address together with an exchange that has no use for it.
    """
    on_ray = getattr(args, "on", "here") == "ray"  # the address is then that of the runs' cluster, not of a run's own
    chosen, address = args.exchange or ("ray" if on_ray else None), "" if on_ray else args.ray_address
    if address and chosen not in (None, "ray"):
        raise ConfigError(f"--ray-address {address}: --exchange {chosen} uses no Ray; leave one of the two out")
    chosen = "ray" if address else chosen
    return [
        *args.set,
        *([f'run.exchange="{chosen}"'] if chosen else []),
        *([f"run.workers={args.workers}"] if args.workers is not None else []),
        *([f'run.ray_address="{address}"'] if address else []),
        *([f"run.log={json.dumps(args.log)}"] if args.log else []),
    ]
