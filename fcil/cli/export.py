"""Run `fcil export`: write what a run has learned as weights for timm."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

__all__ = ["export_command"]


def _export(args: argparse.Namespace, console: Console) -> None:
    """Write what a run has learned as weights of its backbone and one linear head."""
    from fcil.data.progress import waiting

    with waiting(console, "loading code and weights"):
        from fcil.engine.export import export

        instruction = export(args.run, args.out)
    console.print(instruction, soft_wrap=True, markup=False)


def export_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `export`."""
    parser = command("export", _export, "write what a run has learned as weights that timm loads")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write, .safetensors")
