"""A round of federated averaging in fcil on Ray beside the same round in Flower's own simulation, on two workers.

    python tests/benchmarks/bench_flower.py [--clients 10,100] [--rounds 4]

Clients do the same local training, by fcil's code, on the embedded data with the embedded ViT, which every process
loads once; what differs is all around it: messages, Ray, averaging. A round is timed from request to averaged arrays,
without evaluation; the first is left out. Processor time is that of all processes that either started.
"""

import argparse
import json
import os
import time
import uuid
import warnings
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MARK = f"BENCH_FLOWER_PROCESS={uuid.uuid4().hex}"
os.environ.update([MARK.split("=")])  # before anything is started: children have it
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

from flwr.app import Array, ArrayRecord, Context  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from fcil.config import Config, from_table  # noqa: E402
from fcil.engine.simulation import prepare  # noqa: E402
from fcil.exchange.flower.exchange import ray_exchange  # noqa: E402
from fcil.method import Phase  # noqa: E402
from fcil.server.loop import ask, step  # noqa: E402
from fcil.server.plan import initial_progress  # noqa: E402


def settings(clients: int, rounds: int) -> dict[str, Any]:
    """One task of ten classes, one epoch a round."""
    return {
        "tasks": {"count": 1},
        "partition": {"kind": "iid", "clients": clients, "min_samples": 1},
        "train": {"rounds": rounds, "epochs": 1, "batch": 16},
        "method": {"name": "fedavg", "rank": 8},
        "run": {"device": "cpu", "exchange": "ray", "workers": 2, "threads": 1},
    }


def used() -> float:
    """Processor seconds of all processes that this one has started, and of itself."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if MARK.encode() in (folder / "environ").read_bytes().split(b"\0") or folder.name == str(os.getpid()):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


Instants = list[tuple[float, float]]
"""(wall, processor) seconds at the end of each round."""


def ours(config: Config) -> tuple[Instants, dict[str, np.ndarray]]:
    """Carry out the rounds in fcil on its Ray workers; returns the instants and the last arrays."""
    plan, exchange = prepare(config).plan, ray_exchange(config)
    progress, instants = initial_progress(plan), []
    try:
        for _ in range(config.train.rounds):
            events: list[str] = []
            ends: Instants = []

            def emit(event: Any, events: list[str] = events, ends: Instants = ends) -> None:
                if event["event"] == "merged":
                    ends.append((time.perf_counter(), used()))

            begin = (time.perf_counter(), used())
            progress = step(plan, progress, exchange, emit)
            instants += [begin, *ends]
    finally:
        exchange.close()
    last = Phase(0, "train", plan.blocks[0], config.train.rounds, config.run.seed)
    return instants, dict(plan.method.broadcast(progress.state, last).arrays)


def flowers(config: Config, table: dict[str, Any]) -> tuple[Instants, dict[str, np.ndarray]]:
    """Carry out the rounds in Flower's simulation; returns the instants and the last arrays."""
    import flower_client

    os.environ["BENCH_FLOWER"] = json.dumps(table)
    plan = prepare(config).plan
    start = dict(ask(plan, initial_progress(plan)).broadcast.arrays)
    clients, instants, last = config.partition.clients, [], {}
    server = ServerApp()

    def end(_: int, arrays: ArrayRecord) -> None:
        instants.append((time.perf_counter(), used()))
        last.update({name: array.numpy() for name, array in arrays.items()})

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        initial = ArrayRecord({name: Array(array) for name, array in start.items()})
        strategy.start(grid, initial, num_rounds=config.train.rounds, evaluate_fn=end)

    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, flower_client.app, clients, backend_config=backend)
    return instants, last


def main() -> None:
    parser = argparse.ArgumentParser(description="fcil on Ray beside Flower's own simulation.")
    parser.add_argument("--clients", default="10,100")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| clients | | fcil on Ray, s | Flower's simulation, s | ratio |\n| ---: | --- | ---: | ---: | ---: |")
    for clients in map(int, args.clients.split(",")):
        table = settings(clients, args.rounds)
        config = from_table([("benchmark", table)])
        mine, state = ours(config)
        other, last = flowers(config, table)
        pairs = list(zip(mine[::2], mine[1::2], strict=True))[1:], list(pairwise(other))[1:]
        for place, what in enumerate(("wall", "processor")):
            a, b = (median(after[place] - before[place] for before, after in rounds) for rounds in pairs)
            print(f"| {clients} | a round, {what} | {a:.2f} | {b:.2f} | {b / a:.2f} |")
        apart = max(float(np.abs(state[name] - last[name]).max()) for name in state)
        print(f"largest difference between their arrays: {apart:.1e}")


if __name__ == "__main__":
    main()
