"""1,000 clients on two Ray workers, embedded ViT: overhead of a client, traffic of groups, memory over 200 rounds.

    python tests/benchmarks/bench_clients.py [--rounds 200] [--root FOLDER]

Overhead is what a client costs the workers beyond its own training and Gram pass, as the clients record them.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcil.config import Config, from_table
from fcil.engine.simulation import prepare
from fcil.exchange.flower.exchange import FlowerExchange, ray_exchange
from fcil.server.loop import step
from fcil.server.plan import initial_progress

TABLE = {
    "data": {"name": "fashion-mnist", "test_limit": 100},
    "tasks": {"count": 5},
    "partition": {"clients": 1000, "kind": "iid", "min_samples": 1},
    "train": {"rounds": 400, "epochs": 1},
    "method": {"name": "lorm", "rank": 4},
    "run": {"exchange": "ray", "workers": 2, "device": "cpu"},
}


def resident(pid: int | str) -> int:
    """Bytes of a process that are its own: resident and not shared."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return 4096 * (int(pages[1]) - int(pages[2]))


def one_phase(config: Config, exchange: FlowerExchange) -> tuple[float, float, int]:
    """Overhead of a client in ms, seconds of the phase, bytes up."""
    plan, events = prepare(config).plan, list[Mapping[str, Any]]()
    step(plan, initial_progress(plan), exchange, events.append)
    own = sum(e["train_seconds"] + e["report_seconds"] for e in events if e["event"] == "client")
    merged = next(e for e in events if e["event"] == "merged")
    seconds = merged["seconds_clients"]
    return 1e3 * (2 * seconds - own) / merged["updates"], seconds, merged["upload_bytes"]


def memory(config: Config, exchange: FlowerExchange, rounds: int) -> None:
    """Print the growth of the server and the workers over the rounds of a task."""
    plan = prepare(config).plan
    progress = initial_progress(plan)
    pids = ["self", *exchange.grid.pids()]  # type: ignore[attr-defined]
    sizes_of_workers = []
    for _ in range(rounds):
        progress = step(plan, progress, exchange, lambda event: None)
        sizes_of_workers.append([resident(pid) for pid in pids])
    sizes = np.array(sizes_of_workers) / 1e6
    slopes = np.polyfit(np.arange(rounds // 2), sizes[rounds - rounds // 2 :], 1)[0] * 100
    for pid, size, slope in zip(["server", "worker 1", "worker 2"], sizes[-1], slopes, strict=True):
        print(f"{pid}: {size:.0f} MB after {rounds} rounds, {slope:+.2f} MB in 100 rounds of the second half")


def main() -> None:
    parser = argparse.ArgumentParser(description="Many clients.")
    parser.add_argument("--rounds", type=int, default=200, help="for memory; 0 leaves it out (default: 200)")
    parser.add_argument("--root", default="", help="folder of Fashion-MNIST's files")
    args = parser.parse_args()
    if 0 < args.rounds < 4:
        parser.error("--rounds: growth is fitted to the second half of the rounds, so give at least 4, or 0 for none")
    single = from_table([("benchmark", TABLE), ("argument", {"data": {"root": args.root}})])
    grouped = replace(single, run=replace(single.run, aggregate_on_worker=True))
    exchange = ray_exchange(single)
    try:
        one_phase(replace(single, train=replace(single.train, participation=0.01)), exchange)  # workers load
        for name, config in (("single updates", single), ("sums of groups", grouped)):
            result = one_phase(config, FlowerExchange(exchange.grid, config))
            print(f"{name}: {result[0]:.2f} ms a client, {result[1]:.1f} s a round, {result[2] / 1e6:.1f} MB up")
        few = replace(single, train=replace(single.train, participation=0.02))
        if args.rounds:
            memory(few, FlowerExchange(exchange.grid, few), args.rounds)
    finally:
        exchange.close()


if __name__ == "__main__":
    main()
