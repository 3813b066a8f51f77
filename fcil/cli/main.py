"""The command line: reads arguments, calls what does the work, prints."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fcil.cli.arguments import (
    comma_separated,
    figure_arguments,
    figure_form,
    output_folder,
    overrides,
    set_argument,
    sweep_note,
    whole,
)
from fcil.cli.bench import bench_commands
from fcil.cli.check import check_command
from fcil.cli.compare import compare_arguments, compare_command, watch_command
from fcil.cli.completion import completion_command, offer
from fcil.cli.data import data_commands, tell_remarks
from fcil.cli.deployment.demo import demo_command
from fcil.cli.deployment.deploy import deploy_command
from fcil.cli.export import export_command
from fcil.cli.listing import choice_commands, doctor_command, settings_command
from fcil.cli.merge import merge_models_command
from fcil.cli.new_method import new_method_command
from fcil.cli.parser import Parser
from fcil.cli.plan import plan_arguments, plan_command
from fcil.cli.report import report_command
from fcil.cli.tune import tune_command
from fcil.errors import FcilError
from fcil.report.form import written_as

__all__ = ["main"]

_EXAMPLES = {
    "run": "configs/quickstart.toml --set partition.beta=0.1 --output runs/skewed",
    "resume": "runs/skewed",
    "plan": "configs/quickstart.toml --set partition.clients=20",
    "compare": "configs/quickstart.toml --methods lorm,fedavg --seeds 0,1,2",
    "watch": "runs/quickstart-compare --serve",
    "deploy-demo": "--clients 2",
    "methods": "lorm --json",
    "adapters": "lora",
    "settings": "--schema > fcil.schema.json",
    "data": "list",
    "doctor": "--root data",
    "completion": "bash",
    "tune": "configs/quickstart.toml --methods lorm,fedavg --grid train.lr=1e-3,3e-3",
    "new-method": "my_method --kind merge",
    "check-method": "path/to/mine.py:Mine --set rank=4",
    "merge-models": "a.safetensors b.safetensors --out merged.safetensors --config configs/quickstart.toml",
    "deploy": "configs/quickstart.toml --federation hospitals --output /srv/runs/first",
    "report": "runs/quickstart --html quickstart.html",
    "export": "runs/quickstart --out quickstart.safetensors",
    "merge-bench": "configs/merge_bench/digits.toml --seeds 0,1,2",
    "bench": "--backbone vit_small_patch16_224 --batch 8",
}


_GO_ON = ("run", "resume", "compare", "tune", "merge-bench")
"""Commands that keep what they have done, and do not do it again."""
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)
"""Errors that are the disk's: full, read-only, not ours, broken. Any other OSError keeps its traceback."""


def _show(summary: dict[str, Any], out: Path, console: Console) -> None:
    from fcil.report.tables import run_table

    console.print(run_table(summary, summary["correct"], summary["total"]))
    console.print(f"run folder: {out}   final arrays: sha256 {summary['sha256'][:16]}...", soft_wrap=True)


def _tell(note: str, console: Console) -> None:
    if note:
        console.print(note, soft_wrap=True, markup=False)


def _run(args: argparse.Namespace, console: Console) -> None:
    from fcil.config import load_config
    from fcil.report.running import carry_out, checked, left_out_settings

    out = output_folder(args)
    session = checked(load_config(args.config, overrides(args)), out, console=console)
    finished = (out / "summary.json").exists()
    _tell(left_out_settings(session.plan.config), console)
    _tell(sweep_note(args, session.plan.config), console)
    if session.connected is None:  # else the images are elsewhere
        tell_remarks(session.worker.dataset, console)
    summary = carry_out(session, out, console)
    if finished:
        console.print("finished before: nothing was run; --output DIR makes another run", soft_wrap=True)
    _show(summary, out, console)


def _resume(args: argparse.Namespace, console: Console) -> None:
    from fcil.engine.records import read_config, read_summary
    from fcil.report.running import carry_out, checked

    session, finished = checked(read_config(args.run), args.run, console=console), read_summary(args.run) is not None
    summary = carry_out(session, args.run, console)
    if finished:
        console.print("finished before: nothing was run", soft_wrap=True)
    _show(summary, args.run, console)


class _Version(argparse.Action):
    """Look the version up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and exit."""
        import fcil

        print(f"fcil {fcil.__version__}")
        parser.exit()


def _console() -> Console:
    """Make a console whose tables keep their lines when the output goes to a file."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _settings(parser: argparse.ArgumentParser, folder: str = "") -> None:
    """Add the configuration and the options that change it; and where plots go, for a command with such a folder."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; configs/ holds examples")
    set_argument(parser)
    if folder:
        text = f"folder for all that is written (default: {folder}, NAME that of CONFIG with what --set changed)"
        parser.add_argument("--output", type=Path, metavar="DIR", help=text)
        figure_arguments(parser)
    parser.add_argument(
        "--exchange", choices=["inline", "ray"],
        help="clients one after another in this process, or on Ray workers (default: run.exchange of the settings)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="Ray workers (default: run.workers; 0: as many as fit)"
    )
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="join this Ray cluster (implies --exchange ray)")
    loggers = "also log to csv, tensorboard, wandb, mlflow, trackio, or by my_logger.py (default: run.log)"
    parser.add_argument("--log", type=comma_separated, metavar="A,B", help=loggers)


Command = Callable[[str, Callable[[argparse.Namespace, Console], None], str], argparse.ArgumentParser]
"""(name, what carries it out, one line of help) -> the command's parser."""


def _run_commands(command: Command) -> None:
    """Add `run`, `resume`, `plan`, `compare`, `watch` and `tune`."""
    run = "carry out one run; given again, the command goes on where the run was stopped, or shows its result"
    _settings(command("run", _run, run), "runs/NAME")
    resume = command("resume", _resume, "go on with a run that was stopped")
    resume.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    figure_arguments(resume)
    plan = command("plan", plan_command, "show what a run will take: samples, steps, traffic, memory and time")
    _settings(plan)
    plan_arguments(plan)
    compare = command("compare", compare_command, "run several methods with several seeds and print mean and spread")
    _settings(compare, "runs/NAME-compare")
    compare_arguments(compare)
    watch_command(command)
    tune_command(command)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fcil",
        description="Federated class-incremental learning with a frozen ViT: many clients, classes that arrive task by "
        "task, small modules trained locally and merged by the server in closed form.",
        epilog="To begin: fcil run configs/quickstart.toml. What a command takes: fcil COMMAND --help. Documentation: "
        "docs/index.md in the checkout, or `make docs`.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, do: Callable[[argparse.Namespace, Console], None], text: str) -> argparse.ArgumentParser:
        example = f"Example: fcil {name} {_EXAMPLES[name]}" if name in _EXAMPLES else None
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=example)
        subparser.set_defaults(do=do)
        return subparser

    _run_commands(command)
    deploy_command(command)
    demo_command(command)
    bench_commands(command)
    choice_commands(command)
    check_command(command)
    new_method_command(command)
    settings_command(command)
    merge_models_command(command)
    export_command(command)
    report_command(command)
    data_commands(command)
    doctor_command(command)
    completion_command(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit code 0; 1 where a run had to stop; 2 for a mistake in what was typed; 130 interrupted."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    parser = _parser()
    offer(parser)
    errors, args = Console(stderr=True, highlight=False), argparse.Namespace(command="")
    try:
        args = parser.parse_args(arguments)
        with written_as(figure_form(args)):
            args.do(args, _console())
    except FcilError as error:
        errors.print(f"fcil: {error}", soft_wrap=True, markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        rest = "; the same command goes on with what is done so far" if args.command in _GO_ON else ""
        errors.print(f"fcil: interrupted{rest}", soft_wrap=True)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        errors.print(f"fcil: {error.filename or 'a file'}: {error.strerror}", soft_wrap=True, markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
