"""Run `fcil report RUN...`: draw the diagnostics that runs recorded."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

__all__ = ["report", "report_command"]


def report(args: argparse.Namespace, console: Console) -> None:
    """Draw the diagnostics of runs and print the pictures' names (`fcil report RUN...`)."""
    from fcil.report.diagnostics import diagnostics_plots

    for folder in args.runs:
        drawn = diagnostics_plots(folder)
        text = ", ".join(path.name for path in drawn) or "no diagnostics recorded; set run.diagnostics = true"
        console.print(f"{folder}: {text}", soft_wrap=True, markup=False)


def report_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `report`."""
    parser = command("report", report, "draw the diagnostics of runs into their plots/")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, finished or not")
