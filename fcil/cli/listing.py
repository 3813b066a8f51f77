"""Run `fcil methods`, `fcil adapters`, `fcil settings` and `fcil doctor`: list what there is."""

import argparse
import json
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fcil.cli.arguments import pixels
from fcil.errors import ConfigError

__all__ = ["choice_commands", "doctor_command", "settings_command"]

NARROW = 80
"""Columns of a list that goes to a file or a pipe."""


def _methods(args: argparse.Namespace, console: Console) -> None:
    from fcil.registry import installed_names, method_names
    from fcil.report.methods import method_info, method_page, methods_info, methods_table

    names = [*method_names(), *installed_names()]
    if args.json:
        infos = [method_info(args.name)] if args.name else methods_info(names)
        records = [info.to_dict() for info in infos]
        print(json.dumps(records[0] if args.name else records, indent=2))
    elif args.name:
        console.print(method_page(args.name))
    else:
        console.print(methods_table(names), width=None if console.is_terminal else NARROW)


def _adapters(args: argparse.Namespace, console: Console) -> None:
    from fcil.report.adapters import adapter_page, adapters_table

    if args.name:
        console.print(adapter_page(args.name))
    else:
        console.print(adapters_table(), width=None if console.is_terminal else NARROW)


def _settings(args: argparse.Namespace, console: Console) -> None:
    if args.schema:
        from fcil.report.settings_schema import settings_schema

        print(json.dumps(settings_schema(), indent=1))
        return
    from fcil.config import SECTIONS
    from fcil.options import describe
    from fcil.report.settings_table import method_table

    section, _, key = (args.name or "").partition(".")
    _check_setting(section, key)
    for name in [section] if section in SECTIONS else () if section else SECTIONS:
        about = " ".join(SECTIONS[name].__doc__.partition(": ")[2].split())
        settings = [setting for setting in describe(SECTIONS[name]) if key in ("", setting.name)]
        console.print(method_table(settings, f"[{name}]  {about}"), "")
    if section in ("", "method"):
        console.print("\\[method]  name, and the settings of that method: fcil methods NAME")


def _check_setting(section: str, key: str) -> None:
    """Raise ConfigError, with the nearest name, where there is no such section, or no such setting in it."""
    from fcil.config import SECTIONS
    from fcil.options import describe, nearest

    if section not in {"", "method", *SECTIONS}:
        raise ConfigError(f"settings {section}: no such section. {nearest(section, ['method', *SECTIONS])}")
    names = [setting.name for setting in describe(SECTIONS[section])] if section in SECTIONS else []
    if key and names and key not in names:
        raise ConfigError(f"settings {section}.{key}: no such setting. {nearest(key, names)}")


def _doctor(args: argparse.Namespace, console: Console) -> None:
    from fcil.data.progress import waiting

    table = Table(box=None, show_header=False)
    with waiting(console, "looking at versions, hardware and data"):
        from fcil.cli.doctor import findings  # which imports torch

        for what, how in findings(args.root, args.size):
            table.add_row(what, Text(how))
    console.print(table)


def choice_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands `methods` and `adapters`: what a run can choose from."""
    methods = command("methods", _methods, "list the methods, or the settings of one")
    methods.add_argument("name", nargs="?", metavar="NAME", help="show this one's idea, paper and settings")
    methods.add_argument("--json", action="store_true", help="print it all as JSON, for programs")
    adapters = command("adapters", _adapters, "list what clients can train, or the settings of one")
    adapters.add_argument("name", nargs="?", metavar="NAME", help="show this one's idea and settings")


def settings_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `settings`."""
    settings = command("settings", _settings, "list the settings of a run: section, default, admitted values, meaning")
    settings.add_argument("name", nargs="?", metavar="NAME", help="a section, or SECTION.KEY: these alone")
    settings.add_argument(
        "--schema", action="store_true", help="print a JSON schema of configuration files, by which editors complete"
    )


def doctor_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `doctor`."""
    doctor = command("doctor", _doctor, "show versions, cores, GPUs, memory, and what is missing for which data set")
    doctor.add_argument(
        "--root",
        default="",
        metavar="DIR",
        help="look for files of data sets here (default: no data set is looked for)",
    )
    doctor.add_argument("--size", type=pixels, default=224, metavar="PX", help="of the model's input (default: 224)")
