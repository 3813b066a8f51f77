"""Run `fcil plan`: what a run, or all runs of a comparison, will take."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fcil.cli.arguments import methods, overrides, seeds, sweep_argument, sweep_note
from fcil.cli.data import tell_remarks
from fcil.errors import ConfigError, FilesMissing

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["plan_arguments", "plan_command"]


def _one_run(args: argparse.Namespace, console: Console) -> tuple[RenderableType, dict[str, Any]]:
    from fcil.config import load_config
    from fcil.report.running import checked, left_out_settings

    session = checked(load_config(args.config, overrides(args)), console=console)
    tell_remarks(session.worker.dataset, console)
    config = session.plan.config
    notes = [*left_out_settings(config).splitlines(), *filter(None, [sweep_note(args, config)])]
    for note in [*(f"note: {line}" for line in notes), *(f"warning: {text}" for text in session.warnings)]:
        console.print(note, soft_wrap=True, markup=False)
    from fcil.data.progress import moving
    from fcil.engine.forecast import forecast
    from fcil.report.forecast import forecast_table

    with moving(console, "loading the model") as step:
        result = forecast(session, step)
    return forecast_table(result), result.figures()


def _comparison(args: argparse.Namespace, console: Console) -> tuple[RenderableType, dict[str, Any]]:
    from fcil.data.progress import moving, waiting
    from fcil.engine.comparison import LAYING_OUT, cells

    numbers = args.seeds or [0, 1, 2]
    with waiting(console, LAYING_OUT):
        runs = cells(args.config, args.methods, numbers[:1], overrides(args), Path(), args.sweep)
        from fcil.config.resolved import flat_settings
        from fcil.engine.same_settings import doubled_rows
        from fcil.engine.table_forecast import forecast_rows  # which imports torch
        from fcil.report.forecast import comparison_forecast_table
        from fcil.report.rows import unshared
        from fcil.report.running import left_out_settings

    settings = [(cell, flat_settings(cell.config)) for cell in runs if cell.value == runs[0].value]
    shared = [
        (cell.label, {key: settings_of_row[key] for key in settings_of_row if key in cell.common})
        for cell, settings_of_row in settings
    ]
    unlike = unshared(shared)
    doubled = doubled_rows([(cell.value, cell.label, cell.config) for cell in runs])
    left_out = dict.fromkeys(line for cell in runs for line in left_out_settings(cell.config).splitlines())
    for note in [*doubled, *left_out, *([f"{unlike[0].lower()}{unlike[1:].rstrip('.')}"] if unlike else [])]:
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    with moving(console, "loading") as step:
        result = forecast_rows(runs, len(numbers), step)
    return comparison_forecast_table(result), result.figures()


def plan_command(args: argparse.Namespace, console: Console) -> None:
    """Print what a run will take, or each row of a comparison and all together (`fcil plan CONFIG`)."""
    from fcil.config import rows_have_bases

    if args.json and not args.json.parent.is_dir():  # told now, not after the rehearsal
        raise ConfigError(f"--json {args.json}: there is no folder {args.json.parent}")
    several = args.methods or args.seeds or args.sweep or rows_have_bases(args.config)
    try:
        table, figures = (_comparison if several else _one_run)(args, console)
    except FilesMissing as error:
        raise ConfigError(
            f"{error}. To plan without them, in the set's official numbers: --set data.stand_in=true, and without its "
            "weights --set model.weights=random"
        ) from None
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def plan_arguments(plan: argparse.ArgumentParser) -> None:
    """Add the options of `fcil plan` beside those that it shares with `fcil run`."""
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too, as JSON")
    plan.add_argument(
        "--methods", type=methods, default=[], metavar="A,B", help="plan a comparison of these (default: one run)"
    )
    sweep_argument(plan)
    plan.add_argument(
        "--seeds", type=seeds, default=[], metavar="0,1,2", help="plan a comparison with these (default: one run)"
    )
