"""Run `fcil report RUN...`: draw the diagnostics that runs recorded, and say when they reached an accuracy."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fcil.cli.arguments import figure_arguments
from fcil.errors import ConfigError

__all__ = ["report", "report_command"]


def report(args: argparse.Namespace, console: Console) -> None:
    """Draw the diagnostics of runs and print the pictures' names (`fcil report RUN...`)."""
    from fcil.report.diagnostics import diagnostics_plots

    if args.reach is not None and not 0 <= args.reach <= 1:
        raise ConfigError(f"--reach {args.reach:g}: a share from 0 to 1, as 0.8 for 80 %")
    for folder in args.runs:
        drawn = diagnostics_plots(folder)
        text = ", ".join(path.name for path in drawn) or "no diagnostics recorded; set run.diagnostics = true"
        console.print(f"{folder}: {text}", soft_wrap=True, markup=False)
        if args.reach is not None:
            console.print(f"{folder}: {_reached(folder, args.reach)}", soft_wrap=True, markup=False)


def _reached(folder: Path, accuracy: float) -> str:
    """Say in words when a run first had an accuracy over all classes, and what it had sent by then."""
    from fcil.report.run_result import Run

    found, what = Run(folder).first_reached(accuracy), f"{100 * accuracy:g} % over all classes"
    if found is None:
        return f"{what} was not reached"
    up, down = found.upload_bytes / 1e6, found.download_bytes / 1e6
    return (
        f"{what} first reached in round {found.round} of task {found.task + 1}, with {100 * found.accuracy:.1f} %, "
        f"after {found.rounds} rounds in all, {up:.2f} MB up and {down:.2f} MB down"
    )


def report_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `report`."""
    parser = command("report", report, "draw the diagnostics of runs into their plots/")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, finished or not")
    figure_arguments(parser)
    parser.add_argument(
        "--reach", type=float, metavar="SHARE", help="say after how many rounds and MB this accuracy was first reached"
    )
