"""Run `fcil data`: list data sets, prepare one, or preview a run's data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fcil.cli.arguments import figure_arguments, output_folder, pixels, set_argument, whole
from fcil.config.layers import together
from fcil.errors import ConfigError
from fcil.words import counted

if TYPE_CHECKING:
    from fcil.config import Config
    from fcil.data.dataset import Dataset

__all__ = ["data_commands", "tell_remarks"]

GIVEN = "root", "cache", "split_file", "split_seed", "view", "unofficial"
"""Settings of [data] that have an option of their own."""


def data_list(args: argparse.Namespace, console: Console) -> None:
    """Print the data sets (`fcil data list`)."""
    from fcil.report.preview import families_table

    console.print(families_table())


def _wanted(args: argparse.Namespace) -> list[tuple[Config, int]]:
    """The settings whose data are to be prepared, each with the size of its model's input: of a file, or of a name."""
    from fcil.config import from_table, load_all

    options = {key: getattr(args, key) for key in GIVEN if getattr(args, key) is not None}
    overrides = [*args.set, *(f"data.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items())]
    path = Path(args.name)
    if path.suffix == ".toml":
        configs = load_all(path, overrides)
        sizes = [args.size or config.model.image_size for config in configs]
        wanted = {(repr(config.data), size): (config, size) for config, size in zip(configs, sizes, strict=True)}
        return list(wanted.values())  # one of those that need the same
    if path.is_file():
        raise ConfigError(f"{path}: neither a data set nor a configuration, which is a .toml file")
    named = {"data": {"name": args.name}}
    return [(from_table([("fcil data prepare", named), together(overrides)]), args.size or 224)]


def data_prepare(args: argparse.Namespace, console: Console) -> None:
    """Check the files of a data set, or of all that a config needs, and decode them into the cache."""
    wanted = _wanted(args)
    if args.download and any(config.partition.kind == "sites" for config, _ in wanted):
        raise ConfigError(
            f"--download: {args.name} takes images of sites, from the folders in data.sites, which are not downloaded; "
            "fetch into each by `fcil data prepare NAME --root FOLDER --download`, then leave --download out here"
        )
    from fcil.data import load
    from fcil.data.progress import waiting
    from fcil.data.sites import load_sites

    for config, size in wanted:
        sites = config.partition.kind == "sites"
        with waiting(console, f"reading {config.data.name}"):
            data = load_sites(config.data, size) if sites else load(config.data, size, args.download)
        origin = f" ({data.files})" if data.files else ""
        console.print(
            f"{data.name}: {counted(len(data.classes), 'class', 'classes')}, {len(data.train):,} training and "
            f"{counted(len(data.test), 'test image')}, for models of {size} px{origin}", soft_wrap=True, markup=False,
        )  # fmt: skip
        tell_remarks(data, console)


def tell_remarks(data: Dataset, console: Console) -> None:
    """Print what is odd about a user's own files, a line each."""
    for remark in data.remarks:
        console.print(f"note: {remark}", soft_wrap=True, markup=False)


def data_preview(args: argparse.Namespace, console: Console) -> None:
    """Draw and print how a config's data are spread over clients (`fcil data preview CONFIG`)."""
    from fcil.config import load_config
    from fcil.engine.checks import check_settings

    config = load_config(args.config, args.set)
    check_settings(config)
    from fcil.report.preview import preview  # slow to import: not before the settings are known to be good

    preview(config, output_folder(args, after="-preview"), console)


def data_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `data` with its actions list, prepare and preview."""
    about = "list the data sets, make one ready ahead of time, or look at how one is shared out"
    data = command("data", data_list, about)
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(
        name: str, do: Callable[[argparse.Namespace, Console], None], text: str, example: str
    ) -> argparse.ArgumentParser:
        sentence, example = f"{text[0].upper()}{text[1:]}.", f"Example: fcil data {example}"
        parser = actions.add_parser(name, help=text, description=sentence, epilog=example)
        parser.set_defaults(do=do)
        return parser

    action("list", data_list, "list the data sets: name, classes, images, usual number of tasks, source", "list")
    prepare = action(
        "prepare", data_prepare, "check a data set's files and decode them once, for all later runs",
        "prepare folder --root photographs",
    )  # fmt: skip
    _prepare_arguments(prepare)
    show = action(
        "preview", data_preview, "draw who holds what and what the model sees, before anything runs",
        "preview configs/quickstart.toml",
    )  # fmt: skip
    show.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; configs/ holds examples")
    set_argument(show)
    figure_arguments(show)
    show.add_argument("--output", type=Path, metavar="DIR", help="folder for the pictures (default: runs/NAME-preview)")


def _prepare_arguments(prepare: argparse.ArgumentParser) -> None:
    """Add which data `fcil data prepare` makes ready: a data set with settings of [data], or those of a file."""
    prepare.add_argument(
        "name",
        metavar="NAME | CONFIG",
        help="a data set, as `fcil data list` names it; or a TOML file, all of whose data are prepared",
    )
    prepare.add_argument("--root", metavar="DIR", help="data.root: the folder with its files")
    prepare.add_argument("--download", action="store_true", help="fetch files that are missing")
    prepare.add_argument(
        "--size", type=pixels, metavar="PX", help="size of the model's input (default: CONFIG's, or 224)"
    )
    prepare.add_argument("--cache", metavar="DIR", help="data.cache (default: fcil-cache in data.root)")
    prepare.add_argument("--split-file", metavar="FILE", help="data.split_file: lists of train and test")
    prepare.add_argument("--split-seed", type=whole, metavar="N", help="data.split_seed (default: 0)")
    prepare.add_argument("--view", metavar="NAME", help="data.view (default: the set's own)")
    prepare.add_argument("--unofficial", action="store_true", default=None, help="admit other files than the authors'")
    set_argument(prepare)
