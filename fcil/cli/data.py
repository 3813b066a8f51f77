"""Run `fcil data`: list data sets, prepare one, or preview a run's data."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fcil.cli.arguments import figure_arguments, output_folder, pixels, set_argument

__all__ = ["data_commands", "data_list"]


def data_list(args: argparse.Namespace, console: Console) -> None:
    """Print the data sets (`fcil data list`)."""
    from fcil.report.preview import families_table

    console.print(families_table())


def data_prepare(args: argparse.Namespace, console: Console) -> None:
    """Check a data set's files and decode them into the cache (`fcil data prepare NAME`)."""
    from fcil.config import from_table
    from fcil.data import load

    table = {
        key: getattr(args, key) for key in ("name", "root", "cache", "split_file", "split_seed", "view", "unofficial")
    }  # fmt: skip
    settings = from_table([("fcil data prepare", {"data": table})]).data
    data = load(settings, args.size, args.download)
    console.print(
        f"{data.name}: {len(data.classes)} classes, {len(data.train):,} training and {len(data.test):,} test images, "
        f"for models of {args.size} px ({data.files})", soft_wrap=True, markup=False,
    )  # fmt: skip


def data_preview(args: argparse.Namespace, console: Console) -> None:
    """Draw and print how a config's data are spread over clients (`fcil data preview CONFIG`)."""
    from fcil.config import load_config

    config = load_config(args.config, args.set)
    from fcil.report.preview import preview  # slow to import: not before the settings are known to be good

    preview(config, output_folder(args, after="-preview"), console)


def data_commands(data: argparse.ArgumentParser) -> None:
    """Add the actions list, prepare and preview to `fcil data`."""
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, do: Callable[[argparse.Namespace, Console], None], text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(do=do)
        return parser

    action("list", data_list, "name, classes, images, usual number of tasks, source")
    prepare = action("prepare", data_prepare, "check a data set's files and decode them once, for all later runs")
    prepare.add_argument("name", metavar="NAME", help="`fcil data list` names them")
    prepare.add_argument("--root", default="", metavar="DIR", help="data.root: the folder with its files")
    prepare.add_argument("--download", action="store_true", help="fetch files that are missing")
    prepare.add_argument("--size", type=pixels, default=224, metavar="PX", help="of the model's input (default: 224)")
    prepare.add_argument("--cache", default="", metavar="DIR", help="data.cache (default: fcil-cache in data.root)")
    prepare.add_argument("--split-file", default="", metavar="FILE", help="data.split_file: lists of train and test")
    prepare.add_argument("--split-seed", type=int, default=0, metavar="N", help="data.split_seed (default: 0)")
    prepare.add_argument("--view", default="default", metavar="NAME", help="data.view (default: the set's own)")
    prepare.add_argument("--unofficial", action="store_true", help="admit other files than the authors'")
    show = action("preview", data_preview, "draw who holds what and what the model sees, before anything runs")
    show.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; configs/ holds examples")
    set_argument(show)
    figure_arguments(show)
    show.add_argument("--output", type=Path, metavar="DIR", help="default: runs/NAME-preview, with what --set changed")
