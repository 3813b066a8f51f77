"""Define `fcil tune`: choose settings of methods on held-out training images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fcil.cli.arguments import at_least_1, methods, output_folder, overrides, seeds, set_argument
from fcil.engine.tuning import Budget, choose, grid_of, other_than_tried, trials, tuned_file
from fcil.engine.tuning_text import choice_lines
from fcil.errors import ConfigError, RunError

__all__ = ["tune_command"]

TUNED = "tuned.toml"


def _tune(args: argparse.Namespace, console: Console) -> None:
    from fcil.config import grid, load_variant, row_call
    from fcil.engine.comparison import figures, folder_name
    from fcil.engine.queue import Queue
    from fcil.engine.records import write_atomic
    from fcil.report.grid_running import carry_out_grid, check_missing

    budget, out = Budget(tuple(args.seeds), args.held_out, args.tasks), output_folder(args, after="-tuned")
    planned = {}
    for label in args.methods:
        if row_call(args.config, label)[1]:
            raise ConfigError(f"--methods {label}: name settings to try with --grid, and fixed ones with --set")
        points, lacking = grid_of(load_variant(args.config, label, args.set).method.name, args.grid)
        if lacking:
            console.print(f"{label} has no {', '.join(lacking)}; it is tuned over the rest", soft_wrap=True)
        folder = out / folder_name(label)
        planned[label] = folder, points, trials(args.config, label, overrides(args), budget, points, folder)
    choices = []
    for label, (folder, points, runs) in planned.items():
        carry_out_grid(folder, runs, args.jobs, console)
        check_missing(folder, runs)
        keys = [key for key, _ in points[0].settings]
        done = figures(runs, Queue.of(folder, runs).summaries())
        choices.append(choose(label, done, keys, len(runs) // len(points)))
        console.print("\n".join(choice_lines(choices[-1], budget)), soft_wrap=True, markup=False)
    write_atomic(out / TUNED, tuned_file(args.config, overrides(args), choices, budget, out).encode())
    for choice, (_, _, runs) in zip(choices, planned.values(), strict=True):
        chosen = next(cell for cell in runs if dict(cell.point.settings).items() >= choice.settings.items())
        row = load_variant(out / TUNED, choice.label, (), grid(out / TUNED)[0].overrides)
        if names := other_than_tried(chosen.config, row):
            raise RunError(f"{out / TUNED}: {choice.label} differs from what was tuned in {', '.join(names)}; edit it")
    console.print(
        f"chosen, with all that was tried: {out / TUNED}\n"
        f"to compare with other seeds, on the test images: fcil compare {out / TUNED}", soft_wrap=True, markup=False,
    )  # fmt: skip


def _share(text: str) -> float:
    if text == "validation":
        return 0.0
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 0.9:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a share above 0 and at most 0.9, or validation")
    return share


def tune_command(
    command: Callable[[str, Callable[[argparse.Namespace, Console], None], str], argparse.ArgumentParser],
) -> None:
    """Add the command `tune`."""
    parser = command("tune", _tune, "choose settings of methods on held-out training images, never on test images")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; configs/ holds examples")
    parser.add_argument(
        "--methods", type=methods, required=True, metavar="A,B", help="methods, or rows [compare.LABEL] of CONFIG"
    )
    parser.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="SECTION.KEY=A,B",
        help="values of one setting to try; several --grid: all their combinations",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        default=[100],
        metavar="100,101",
        help="of every trial (default: 100); others than those that you compare with",
    )
    parser.add_argument(
        "--held-out", type=_share, default=0.2, metavar="SHARE",
        help="of each class's training images, to choose by (default: 0.2); or validation, the set's own part",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", type=at_least_1("tasks"), default=2, metavar="N", help="try the first N (default: 2)"
    )
    parser.add_argument(
        "--jobs", type=at_least_1("processes"), default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for all that is written (default: runs/NAME-tuned)"
    )
    parser.add_argument(
        "--exchange",
        choices=["inline", "ray"],
        help="clients in this process, or on Ray workers (default: run.exchange)",
    )
    parser.set_defaults(workers=None, ray_address=None, log=None)
    set_argument(parser)
