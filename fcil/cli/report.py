"""Run `fcil report RUN...`: draw what runs recorded, write it as a page, and say when they reached an accuracy."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fcil.cli.arguments import figure_arguments, share
from fcil.errors import ConfigError
from fcil.words import counted

__all__ = ["report", "report_command"]


def report(args: argparse.Namespace, console: Console) -> None:
    """Draw what runs and comparisons recorded, or write it as a page (`fcil report RUN...`)."""
    from fcil.data.progress import waiting

    if args.html is not None:
        if args.formats != ["png"] or args.width:
            raise ConfigError(
                "--html with --format or --width: a page has pictures of its own; leave one of the two out"
            )
        _write_page(args.runs, args.html, console)
    for folder in args.runs:
        if args.html is None:
            with waiting(console, f"drawing {folder}"):
                drawn = _drawn(folder)
            console.print(f"{folder}: {drawn}", soft_wrap=True, markup=False)
        if args.reach is not None:
            console.print(f"{folder}: {_reached(folder, args.reach)}", soft_wrap=True, markup=False)


def _drawn(folder: Path) -> str:
    """Draw a run or a comparison into its folder, and name the pictures."""
    from fcil.engine.grid import GRID
    from fcil.report.run import draw_recorded
    from fcil.report.run_result import Run

    if (folder / GRID).exists():
        from fcil.report.comparison import draw_again

        return ", ".join(str(path.relative_to(folder)) for path in draw_again(folder)) or "no run is finished"
    run = Run(folder)
    drawn = ", ".join(path.name for path in draw_recorded(run)) or "nothing recorded yet"
    return drawn if run.config.run.diagnostics else f"{drawn}; no diagnostics recorded; set run.diagnostics = true"


def _write_page(folders: list[Path], file: Path, console: Console) -> None:
    from fcil.data.progress import waiting
    from fcil.files import write_atomic
    from fcil.report.page.document import report_page

    with waiting(console, "reading the records, and drawing"):
        page = report_page(folders).encode()
    try:
        write_atomic(file, page)
    except OSError as error:
        message = f"--html {file}: cannot be written ({error.strerror}); name a file in a folder that exists"
        raise ConfigError(message) from None
    console.print(f"{file}: {len(page) / 1000:,.0f} kB, opens in any browser", soft_wrap=True, markup=False)


def _reached(folder: Path, accuracy: float) -> str:
    """Say in words when a run first had an accuracy over all classes, and what it had sent by then."""
    from fcil.report.run_result import Run

    point, what = Run(folder).first_reached(accuracy), f"{100 * accuracy:g} % over all classes"
    if point is None:
        return f"{what} was not reached"
    up, down = point.upload_bytes / 1e6, point.download_bytes / 1e6
    return (
        f"{what} first reached in round {point.round} of task {point.task + 1}, with {100 * point.accuracy:.1f} %, "
        f"after {counted(point.rounds, 'round')} in all, {up:.2f} MB up and {down:.2f} MB down"
    )


def report_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `report`."""
    parser = command("report", report, "draw what runs recorded into their plots/, or write it as one page of HTML")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, finished or not, or of a comparison"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write one page that needs nothing else, in place of pictures"
    )
    figure_arguments(parser)
    parser.add_argument(
        "--reach", type=share, metavar="SHARE", help="say after how many rounds and MB this accuracy was first reached"
    )
