"""Define `fcil tune`: choose settings of methods on held-out training images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fcil.cli.arguments import at_least_1, methods, output_folder, overrides, seeds, set_argument
from fcil.engine.search_space import space_of
from fcil.engine.tuning import Budget, Choice, best_of, choose, grid_of, other_than_tried, trials, tuned_file
from fcil.engine.tuning_text import choice_lines
from fcil.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fcil.engine.comparison import Cell
    from fcil.report.tune_search import Searched

__all__ = ["tune_command"]

TUNED = "tuned.toml"


def _tune(args: argparse.Namespace, console: Console) -> None:
    from fcil.config import row_call

    for label in args.methods:
        if row_call(args.config, label)[1]:
            raise ConfigError(f"--methods {label}: name settings to try with --grid, and fixed ones with --set")
    if args.trials is None and (args.join or args.no_pruning):
        raise ConfigError(
            "--join and --no-pruning are of a search, --trials N; a grid of which others carry out the rest is joined "
            "with `fcil compare DIR --join`"
        )
    budget, out = Budget(tuple(args.seeds), args.held_out, args.tasks), output_folder(args, after="-tuned")
    if args.trials is None:
        _write(args, out, budget, *_by_grid(args, out, budget, console), console=console)
        return
    from fcil.data.progress import waiting

    with waiting(console, "loading code"):
        searched = [_searched(args, label, budget, out, console) for label in args.methods]
        from fcil.report.tune_search import carry_out_search, join_search, share_search

    if args.join:
        for one in searched:
            join_search(one, console)
        return
    if args.jobs > 1:
        share_search(searched, args.jobs, _joining(args, out), out, console)
    choices = []
    for one in searched:
        choices.append(best_of(one.label, carry_out_search(one, console)))
        _tell(choices[-1], budget, console)
    runs = [one.runs(choice.settings) for one, choice in zip(searched, choices, strict=True)]
    _write(args, out, budget, choices, runs, console=console)


def _tell(choice: Choice, budget: Budget, console: Console) -> None:
    console.print("\n".join(choice_lines(choice, budget)), soft_wrap=True, markup=False)


def _has_no(label: str, lacking: Sequence[str], console: Console) -> None:
    if lacking:
        console.print(f"{label} has no {', '.join(lacking)}; it is tuned over the rest", soft_wrap=True)


def _name(args: argparse.Namespace, label: str) -> str:
    from fcil.config import load_variant

    return load_variant(args.config, label, args.set).method.name


def _by_grid(
    args: argparse.Namespace, out: Path, budget: Budget, console: Console
) -> tuple[list[Choice], list[list[Cell]]]:
    """Try all combinations of the grid's values, as one comparison; returns the choices, and each method's runs."""
    from fcil.data.progress import waiting
    from fcil.engine.comparison import LAYING_OUT, figures
    from fcil.engine.queue import Queue

    planned = {}
    for label in args.methods:
        points, lacking = grid_of(_name(args, label), args.grid)
        _has_no(label, lacking, console)
        with waiting(console, LAYING_OUT):
            planned[label] = points, trials(args.config, label, overrides(args), budget, points, out)
    from fcil.report.grid_running import carry_out_grid, check_missing  # torch comes with it, if not before

    every = [run for _, runs in planned.values() for run in runs]
    carry_out_grid(out, every, args.jobs, console)
    check_missing(out, every)
    choices = []
    for label, (points, runs) in planned.items():
        keys = [key for key, _ in points[0].settings]
        done = figures(runs, Queue.of(out, runs).summaries())
        choices.append(choose(label, done, keys, len(runs) // len(points)))
        _tell(choices[-1], budget, console)
    return choices, [runs for _, runs in planned.values()]


def _searched(args: argparse.Namespace, label: str, budget: Budget, out: Path, console: Console) -> Searched:
    from fcil.engine.comparison import folder_name
    from fcil.report.tune_search import Searched

    space, lacking = space_of(_name(args, label), args.grid)
    _has_no(label, lacking, console)
    folder, prune = out / folder_name(label), not args.no_pruning
    return Searched(args.config, label, overrides(args), budget, space, folder, args.trials, prune)


def _joining(args: argparse.Namespace, out: Path) -> list[str]:
    """The command of a process that takes part in the search."""
    return [
        "tune", str(args.config), "--join", "--output", str(out), "--methods", ",".join(args.methods),
        *(word for text in args.grid for word in ("--grid", text)),
        *(word for text in args.set for word in ("--set", text)),
        "--seeds", ",".join(map(str, args.seeds)), "--held-out", repr(args.held_out) if args.held_out else "validation",
        "--tasks", str(args.tasks), "--trials", str(args.trials), *(["--no-pruning"] if args.no_pruning else []),
    ]  # fmt: skip


def _write(
    args: argparse.Namespace, out: Path, budget: Budget, choices: Sequence[Choice], runs: Sequence[Sequence[Cell]],
    console: Console,
) -> None:  # fmt: skip
    """Write the file of what was chosen, and check that its rows are what was tried.

    Raises:
        RunError: one is not.
    """
    from fcil.config import grid, load_variant
    from fcil.files import write_atomic

    write_atomic(out / TUNED, tuned_file(args.config, overrides(args), choices, budget, out).encode())
    for choice, tried in zip(choices, runs, strict=True):
        chosen = next(cell for cell in tried if dict(cell.point.settings).items() >= choice.settings.items())
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
        help="values of one setting to try, all combinations of several --grid; with --trials also a range, LOW..HIGH "
        "or LOW..HIGH:log",
    )
    _search_arguments(parser)
    _trial_arguments(parser)
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


def _trial_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all trials have in common: seeds, images to choose by, and tasks."""
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


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials", type=at_least_1("trials"), metavar="N",
        help="search in place of a grid: Optuna proposes N settings for each method (default: all of the grid)",
    )  # fmt: skip
    parser.add_argument(
        "--no-pruning", action="store_true", help="of a search: carry out to their end trials that are behind, too"
    )
    parser.add_argument(
        "--join", action="store_true", help="take trials of a search that others work on, write no file"
    )
