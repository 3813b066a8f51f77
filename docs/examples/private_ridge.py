"""Measure ridge regression on noisy sums: accuracy against epsilon, with the noise at clients and at the server.

    pip install "fcil[privacy]"
    python docs/examples/private_ridge.py [--epsilon 1,2,4,8] [--seeds 0,1,2] [--set SECTION.KEY=VALUE ...]

Prints a Markdown table. Other seeds draw other noise and another split; the features are those of the frozen backbone.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fcil.config import from_table
from fcil.config.layers import together
from fcil.engine.simulation import prepare, simulate
from fcil.statistics.privacy import multiplier_for

SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"name": "digits"},
    "tasks": {"count": 5},
    "partition": {"clients": 5, "beta": 0.5},
    "model": {"image_size": 16},
    "method": {"name": "ridge", "clip": 10.0},
}


def accuracy(noise: float, place: str, seed: int, overrides: list[Any]) -> float:
    """Final accuracy of a run, in percent."""
    drawn = {"method": {"noise": noise, "noise_at": place}, "run": {"seed": seed}}
    with tempfile.TemporaryDirectory() as folder:
        session = prepare(from_table([("here", SETTINGS), ("drawn", drawn), *overrides]), Path(folder) / "run")
        return 100 * float(simulate(session, Path(folder) / "run")["final_accuracy"])


def main(arguments: list[str] | None = None) -> list[str]:
    """Carry out all runs; returns the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epsilon", default="1,2,4,8,16,64")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    chosen = parser.parse_args(arguments)
    overrides = [together(chosen.set)]
    seeds = [int(s) for s in chosen.seeds.split(",")]
    lines = ["| epsilon | noise multiplier | noise at clients | noise at the server |", "|---:|---:|---:|---:|"]
    multipliers = {e: multiplier_for(float(e), chosen.delta) for e in chosen.epsilon.split(",")}
    for epsilon, noise in {**multipliers, "no noise": 0.0}.items():
        cells = []
        for place in ("client", "server"):
            found = [accuracy(noise, place, seed, overrides) for seed in seeds]
            spread = f" ± {np.std(found, ddof=1):.1f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.1f}{spread}")
        lines.append(f"| {epsilon} | {noise:.2f} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main()
