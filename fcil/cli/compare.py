"""Define `fcil compare` and `fcil watch`: carry out the runs of a comparison, and look at them while they go on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fcil.cli.arguments import methods, output_folder, overrides, seeds, share, sweep_argument, whole
from fcil.engine.reuse import Reuse
from fcil.errors import ConfigError

if TYPE_CHECKING:
    from fcil.engine.comparison import Cell

__all__ = ["compare_arguments", "compare_command", "watch_command"]

PORT = 8400


def _runs(args: argparse.Namespace) -> tuple[Path, list[Cell]]:
    """Lay the comparison out, or read it where its folder is named in place of a file."""
    if args.on == "ray" and args.join:
        raise ConfigError("--on ray --join: a cluster's tasks join by themselves; leave one of the two out")
    if args.on == "here" and args.jobs not in (None, 1) and args.exchange == "ray" and not args.ray_address:
        raise ConfigError(
            f"--jobs {args.jobs}: each process would start a Ray of its own on all cores; leave --exchange out, or "
            "join one cluster with --ray-address"
        )
    from fcil.engine.grid import GRID, go_where_it_was_begun, read_grid

    if not args.config.is_dir():
        from fcil.engine.comparison import cells
        from fcil.engine.given import SEEDS

        out = output_folder(args, after="-compare")
        if args.join and not (out / GRID).exists():
            raise ConfigError(f"{out}: holds no comparison to join; begin it with the same command without --join")
        planned = cells(args.config, args.methods, args.seeds or list(SEEDS), overrides(args), out, args.sweep)
        return out, _joined(out, planned) if args.join else planned

    beside = ['run.exchange="ray"'] if args.on == "ray" else []
    if args.methods or args.seeds or args.sweep or args.output or overrides(args) != beside:
        raise ConfigError(
            f"{args.config}: is a comparison that was begun, with settings of its own; name its configuration instead "
            "to compare with other settings"
        )
    out = go_where_it_was_begun(args.config)
    return out, read_grid(out)


def _joined(out: Path, planned: list[Cell]) -> list[Cell]:
    """The runs of the comparison in a folder that are planned here too.

    Raises:
        ConfigError: it has not all of them, or with other settings.
    """
    from fcil.config import unlike
    from fcil.engine.grid import read_grid

    there = {cell.folder: cell for cell in read_grid(out)}
    for cell in planned:
        if cell.folder not in there or unlike(there[cell.folder].config, cell.config):
            raise ConfigError(
                f"{out}: its comparison has no {cell.name}, or with other settings; choose another --output"
            )
    return [there[cell.folder] for cell in planned]


def compare_command(args: argparse.Namespace, console: Console) -> None:
    """Carry out a comparison, or a share of it, and print its tables."""
    from fcil.data.progress import waiting
    from fcil.engine.comparison import LAYING_OUT

    with waiting(console, LAYING_OUT):
        out, runs = _runs(args)
        from fcil.engine.same_settings import doubled_rows
        from fcil.report.grid_running import carry_out_grid, check_missing, join_grid  # which import torch

    reuse = Reuse(not args.no_memo, not args.no_feature_cache, args.check_memo)
    for note in doubled_rows([(cell.value, cell.label, cell.config) for cell in runs]):
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    if args.join:
        return join_grid(out, runs, console, reuse)
    from fcil.report.overview import overview_rich
    from fcil.report.published import published_rich
    from fcil.report.tables import to_rich

    address = args.ray_address or ""
    tables = carry_out_grid(out, runs, args.jobs, console, reuse, on=args.on, ray_address=address)
    for value, rows in tables.items():
        console.print(*([Text(f"\n{value}", "bold")] if value else []), to_rich(rows), sep="\n")
        if figures := published_rich(rows):
            console.print("", figures, sep="\n")
    if len(tables) > 1:
        console.print("", overview_rich({cell.value: dict(cell.point.settings) for cell in runs}, tables), sep="\n")
    console.print(f"tables and plots: {out}", soft_wrap=True)
    check_missing(out, runs)
    return None


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fcil compare` beside those for settings."""
    sweep_argument(parser)
    parser.add_argument(
        "--methods",
        type=methods,
        default=[],
        metavar="A,B(KEY=VALUE)",
        help="methods, or rows [compare.LABEL] of CONFIG, with settings of the method in brackets (default: all rows)",
    )
    parser.add_argument("--seeds", type=seeds, default=[], metavar="0,1,2", help="seeds of every row (default: 0,1,2)")
    parser.add_argument(
        "--jobs",
        type=whole,
        metavar="N",
        help="runs at a time, each in a process of its own (0: as many as cores; default: 1, on Ray as many as fit)",
    )
    parser.add_argument(
        "--on",
        choices=["here", "ray"],
        default="here",
        help="ray: runs are tasks of a Ray cluster (--ray-address) whose machines all see the folder (default: here)",
    )
    parser.add_argument(
        "--join", action="store_true", help="share the runs of a comparison that goes on elsewhere; prints no table"
    )
    _reuse_arguments(parser)


def _reuse_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what runs may take from each other."""
    memo = parser.add_mutually_exclusive_group()
    memo.add_argument(
        "--no-memo",
        action="store_true",
        help="compute every update, also one that another run of the comparison has computed",
    )
    memo.add_argument(
        "--check-memo", type=share, default=Reuse.share, metavar="SHARE",
        help="share of what runs take from each other that is computed again and compared (default: 0.02)",
    )  # fmt: skip
    parser.add_argument("--no-feature-cache", action="store_true", help="compute the frozen backbone's features anew")


def _watch(args: argparse.Namespace, console: Console) -> None:
    if args.serve is not None:
        from fcil.report.page.serving import serve

        return serve(args.folder, args.serve, lambda text: console.print(text, soft_wrap=True, markup=False))
    from rich.live import Live

    from fcil.data.progress import waiting
    from fcil.engine.grid import watched
    from fcil.report.grid_view import GridView

    with waiting(console, "reading the records"):
        view = GridView(watched(args.folder), args.folder)
        standings = view.look()
    if not console.is_terminal:
        console.print(view.draw(standings, len(standings)))
        return None
    with Live(view.draw(standings), console=console, auto_refresh=False) as screen:
        while any(standing.state not in ("finished", "failed") for standing in standings):
            time.sleep(1)
            standings = view.look()
            screen.update(view.draw(standings), refresh=True)
    return None


def watch_command(
    command: Callable[[str, Callable[[argparse.Namespace, Console], None], str], argparse.ArgumentParser],
) -> None:
    """Add the command `watch`."""
    text = "show where the runs of a comparison stand, or one run, whichever process carries them out"
    parser = command("watch", _watch, text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the comparison, or of the run")
    parser.add_argument(
        "--serve", type=_port, nargs="?", const=PORT, metavar="PORT",
        help=f"show the page of `fcil report --html` live on 127.0.0.1 (default: port {PORT}; 0: any that is free)",
    )  # fmt: skip


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a port, 0 to 65535")
    return int(text)
