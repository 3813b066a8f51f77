"""`fcil merge-bench CONFIG`: parse, call, print."""

import argparse
from pathlib import Path

from rich.console import Console

from fcil.cli_data import RUNS
from fcil.errors import ConfigError

__all__ = ["bench_arguments", "merge_bench", "seeds"]


def seeds(text: str) -> list[int]:
    """Seeds, as an argument."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: write seeds as 0,1,2")
    return [int(part) for part in parts]


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """What `fcil merge-bench` takes."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file with [bench]: configs/merge_bench/")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: runs/merge-bench-NAME)")
    parser.add_argument("--seeds", type=seeds, default=[0], metavar="0,1,2", help="default: 0")


def merge_bench(given: argparse.Namespace, console: Console) -> None:
    """`fcil merge-bench CONFIG`."""
    from fcil.merge_bench.records import draw_all, write
    from fcil.merge_bench.run import carry_out
    from fcil.merge_bench.settings import load_suite
    from fcil.report.merge_bench import to_rich, told

    out = given.output or RUNS / f"merge-bench-{given.config.stem}"
    if not given.seeds or len(set(given.seeds)) < len(given.seeds):
        raise ConfigError(f"--seeds {','.join(map(str, given.seeds))}: name each seed once, and at least one")
    suite = load_suite(given.config, given.set)

    def tell(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    results = []
    for result in carry_out(suite, given.seeds, out, tell):
        results.append(result)
        tell(f"{result.model}, seed {result.seed}, {len(result.tasks)} experts: {result.label} {result.settings}")
        write(out, suite, results)
    draw_all(out, results)
    console.print(to_rich(results))
    tell(f"{told(results)}\ntables and plots: {out}")
