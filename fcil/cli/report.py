"""`fcil report RUN...`: draw what runs recorded."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

__all__ = ["report", "report_command"]


def report(given: argparse.Namespace, console: Console) -> None:
    """`fcil report RUN...`."""
    from fcil.report.diagnostics import diagnostics_plots

    for folder in given.runs:
        drawn = diagnostics_plots(folder)
        told = ", ".join(path.name for path in drawn) or "no diagnostics recorded; set run.diagnostics = true"
        console.print(f"{folder}: {told}", soft_wrap=True, markup=False)


def report_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `report`."""
    made = command("report", report, "draw the diagnostics of runs into their plots/")
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, finished or not")
