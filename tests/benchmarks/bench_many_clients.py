"""Many small clients: what one costs beyond its training of one step on 16 images, in this process and on Ray workers.

    python tests/benchmarks/bench_many_clients.py [--clients 1000,3000] [--repeats 3] [--workers 2] [--profile]

Training by hand is a loop that does nothing else: a client's 16 images under the training view, the same network with
the same LoRA layers and factors, an optimiser, one step, and the factors read. Groups of clients take turns with the
same ones by hand, so that what slows a shared machine slows both; the median of the differences is told with their
range. Processor time, with one thread.
"""

import argparse
import cProfile
import pstats
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fcil.config import Config, from_table
from fcil.data.dataset import model_inputs
from fcil.engine.client_events import Summary
from fcil.engine.simulation import prepare
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.seeding import generator
from fcil.server.loop import Exchange, Request, ask, step
from fcil.server.plan import initial_progress
from fcil.server.replies import Reply
from fcil.threads import threads

IMAGES, CLASSES, SIDE = 16, 10, 16
TABLE = {
    "tasks": {"count": 1},
    "model": {"image_size": SIDE},
    "train": {"rounds": 1, "epochs": 1, "batch": IMAGES},
    "method": {"name": "fedavg", "rank": 4},
    "run": {"device": "cpu", "aggregate_on_worker": True, "client_events": "summary"},
}


def settings(folder: Path, clients: int) -> Config:
    """A run with as many clients of 16 random images each."""
    path = folder / f"{clients}.npz"
    if not path.exists():
        rng, n = generator(0, "many clients"), clients * IMAGES
        images = rng.integers(0, 256, (n, SIDE, SIDE), np.uint8)
        labels = np.arange(n) % CLASSES
        np.savez(path, train_images=images, train_labels=labels, test_images=images[:50], test_labels=labels[:50])
    data = {"name": f"npz:{path.name}", "root": str(folder), "cache": str(folder / "cache")}
    own = {"data": data, "partition": {"kind": "iid", "clients": clients, "min_samples": 1}}
    return from_table([("benchmark", TABLE), ("argument", own)])


class ByHand:
    """A loop that trains clients and does nothing else: their images, an optimiser, one step, and the factors read."""

    def __init__(self, config: Config) -> None:
        session = prepare(config)
        request, worker = ask(session.plan, initial_progress(session.plan)), session.worker
        self.model, self.lr = worker.model, config.train.lr
        self.dataset, self.samples = worker.dataset, worker.scenario.parts[0]
        self.labels = torch.from_numpy(self.dataset.train.labels.astype(np.int64))
        names = request.local.trained(list(request.broadcast.arrays))
        self.leaves = worker.model.load(request.broadcast.arrays, names)
        self.start = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        self.rng = generator(0, "by hand")
        self.seconds(range(20))

    def client(self, client: int) -> list[np.ndarray]:
        samples = self.samples[client]
        images = model_inputs(self.dataset.train.images[samples], self.dataset, SIDE, self.rng)
        for name, leaf in self.leaves.items():
            leaf.data.copy_(self.start[name])
            leaf.grad = None
        optimizer = torch.optim.AdamW(self.leaves.values(), lr=self.lr, fused=True)
        logits = self.model.logits(self.model.features(images), (0,))
        F.cross_entropy(logits, self.labels[samples]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return [leaf.detach().numpy().copy() for leaf in self.leaves.values()]

    def seconds(self, clients: Iterable[int]) -> float:
        """Processor seconds of these clients' training."""
        begin = time.process_time()
        with threads(1):
            for client in clients:
                self.client(client)
        return time.process_time() - begin


class InTurn(Inline):
    """Runs a group of clients, then the same by hand, then the next group: what slows the machine slows both."""

    def __init__(self, worker: Worker, by_hand: ByHand) -> None:
        super().__init__(worker)
        self.by_hand, self.seconds = by_hand, 0.0

    def __call__(self, request: Request) -> Iterator[Reply]:
        for group in request.groups:
            yield self.worker.work_group(request.phase, request.broadcast, group)
            self.seconds += self.by_hand.seconds(group)


def one_round(config: Config, exchange: Exchange) -> tuple[float, float]:
    """Processor seconds of this process, and of all, for a round without its evaluation."""
    events: list[Mapping[str, Any]] = []
    plan = prepare(config).plan
    progress = initial_progress(plan)

    def emit(event: Mapping[str, Any]) -> None:
        events.append({**event, "at": time.process_time()})

    begin = time.process_time()
    step(plan, progress, exchange, Summary(emit))
    merged = next(event for event in events if event["event"] == "merged")
    return merged["at"] - begin, merged["seconds_clients"] + merged["seconds_merge"]


def inline(config: Config, profile: bool) -> tuple[float, float]:
    """Processor seconds of a round in this process, and of the same clients by hand between its groups."""
    session = prepare(config)
    exchange = InTurn(session.worker, ByHand(config))
    few = replace(config, train=replace(config.train, participants=10))
    one_round(few, Inline(replace(session.worker, config=few)))
    _ = session.worker.model, session.worker.scenario
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    both = one_round(config, exchange)[0]
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    return exchange.seconds, both - exchange.seconds


def on_ray(config: Config, workers: int) -> tuple[float, float]:
    """Processor seconds of the server in a round, and of the workers."""
    from fcil.exchange.flower.exchange import FlowerExchange, ray_exchange

    config = replace(config, run=replace(config.run, exchange="ray", workers=workers))
    exchange = ray_exchange(config)
    try:
        pids = exchange.grid.pids()  # type: ignore[attr-defined]
        few = replace(config, train=replace(config.train, participants=4 * workers))
        one_round(few, FlowerExchange(exchange.grid, few))
        before = [used(pid) for pid in pids]
        server = one_round(config, FlowerExchange(exchange.grid, config))[0]
        return server, sum(used(pid) for pid in pids) - sum(before)
    finally:
        exchange.close()


def used(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Many small clients.")
    parser.add_argument("--clients", default="1000,3000")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are measured (default 3)")
    parser.add_argument("--workers", type=int, default=0, help="Ray workers; 0 leaves Ray out (default)")
    parser.add_argument("--profile", action="store_true", help="say where the time of a round in process goes")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        for clients in map(int, args.clients.split(",")):
            config = settings(Path(folder), clients)
            pairs = [inline(config, args.profile) for _ in range(args.repeats)]
            steps, run = (median(column) for column in zip(*pairs, strict=True))
            beyond = sorted(1e3 * (whole - alone) / clients for alone, whole in pairs)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            told = f"{clients} clients: by hand {1e3 * steps / clients:.2f} ms a client, in process "
            spread = f"{median(beyond):.2f} beyond ({beyond[0]:.2f} to {beyond[-1]:.2f})"
            print(f"{told}{1e3 * run / clients:.2f}: {spread}; peak {peak:.0f} MB")
            if args.workers:
                server, theirs = on_ray(config, args.workers)
                more = 1e3 * (server + theirs - steps) / clients
                print(
                    f"  {args.workers} Ray workers: server {1e3 * server / clients:.2f}, workers "
                    f"{1e3 * theirs / clients:.2f}: {more:.2f} beyond"
                )


if __name__ == "__main__":
    main()
