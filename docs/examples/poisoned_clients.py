"""Measure what poisoned updates cost, by method and filter: some of ten clients send what is well-formed and false.

    python docs/examples/poisoned_clients.py [--malicious 0,1,2,3,4] [--methods "lorm;ridge"] [--set KEY=VALUE ...]

Three attacks. `flip`: the change that was trained, with its sign turned, three times as long; of a closed form the
class sums with their sign turned. `noise`: noise ten times as long as the change; a closed form's sums as if features
had been ten times as long, and its class sums noise. `labels`: all is done honestly, on labels that are reversed within
the task. The malicious clients are the last ones. Prints a Markdown table for each attack.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcil.arrays import Arrays
from fcil.config import Config, from_table
from fcil.config.layers import together
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, FcilError
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.method import ClientUpdate
from fcil.server.loop import Request
from fcil.server.replies import Reply

SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"name": "digits", "train_limit": 500, "test_limit": 200},
    "tasks": {"count": 1},
    "partition": {"clients": 10, "beta": 1.0},
    "model": {"image_size": 16},
    "train": {"rounds": 2, "epochs": 3, "lr": 5e-3, "batch": 16},
}
METHODS: dict[str, dict[str, Any]] = {
    "lorm": {"rank": 4},
    "fedavg": {"rank": 4},
    "ridge": {},
    "ridge, clip = 10": {"clip": 10.0},
}
FILTERS = (
    "none", "norm(factor = 2)", "median", "trimmed(share = 0.4)", "krum(malicious = 3)",
    "multi_krum(malicious = 3, keep = 5)",
)  # fmt: skip
ATTACKS = ("flip", "noise", "labels")


def flipped(update: ClientUpdate, start: Arrays) -> ClientUpdate:
    """Turn the sign of what the client found out, and send three times as much of it where that is a change."""
    arrays = {n: start[n] - 3 * (a - start[n]) for n, a in update.arrays.items()}
    statistics = {n: -a if "class_sums" in n else a for n, a in update.statistics.items()}
    return replace(update, arrays=arrays, statistics=statistics)


def noisy(update: ClientUpdate, start: Arrays, rng: np.random.Generator) -> ClientUpdate:
    """Send noise ten times as long as the change; a closed form's sums as of features ten times as long."""
    arrays = {}
    for name, a in update.arrays.items():
        noise = rng.standard_normal(a.shape)
        length = 10 * np.linalg.norm(a - start[name]) / max(np.linalg.norm(noise), 1e-12)
        arrays[name] = (start[name] + length * noise).astype(a.dtype)
    statistics = {}
    for name, a in update.statistics.items():
        if "class_sums" in name:
            noise = rng.standard_normal(a.shape)
            own = np.linalg.norm(a, axis=1, keepdims=True)
            statistics[name] = (10 * own * noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(a.dtype)
        else:
            statistics[name] = a if "counts" in name else 100 * a
    return replace(update, arrays=arrays, statistics=statistics)


def mislabelled(worker: Worker) -> Worker:
    """A worker to whom every task's labels are reversed: its first class is the last, and so on."""
    scenario, data = worker.scenario, worker.dataset
    labels = data.train.labels.copy()
    for task in scenario.tasks:
        classes = scenario.order[task.first : task.seen]
        for old, new in zip(classes, classes[::-1], strict=True):
            labels[data.train.labels == old] = new
    other = Worker(worker.config, worker.method, worker.store)
    # what is set here is not computed: parts and model stay those of the honest
    other.__dict__["scenario"], other.__dict__["model"] = scenario, worker.model
    other.__dict__["dataset"] = replace(data, train=replace(data.train, labels=labels))
    return other


class Poisoned(Inline):
    """Runs clients in this process, of whom the last `malicious` attack."""

    def __init__(self, worker: Worker, attack: str, malicious: int) -> None:
        """Malicious clients do what `attack` says, one of ATTACKS."""
        super().__init__(worker)
        self.attack, self.first = attack, worker.config.partition.clients - malicious
        self.evil = mislabelled(worker) if attack == "labels" else worker

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Yield the updates of honest and malicious clients, in the order of their numbers."""
        for client in request.num_examples:
            worker = self.evil if client >= self.first else self.worker
            update = worker.work(request.phase, request.broadcast, client)
            if client >= self.first and self.attack == "flip":
                update = flipped(update, request.broadcast.arrays)
            elif client >= self.first and self.attack == "noise":
                rng = np.random.Generator(np.random.PCG64([request.phase.index, client]))
                update = noisy(update, request.broadcast.arrays, rng)
            yield update


def accuracy(config: Config, attack: str, malicious: int) -> str:
    """The final accuracy of a run, in percent, with the number of updates refused; or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        session = prepare(config, Path(folder) / "run")
        try:
            summary = simulate(session, Path(folder) / "run", exchange=Poisoned(session.worker, attack, malicious))
        except ConfigError:
            raise
        except FcilError as error:
            return type(error).__name__
    return f"{100 * summary['final_accuracy']:.1f}" + (f" ({summary['refused']} refused)" if summary["refused"] else "")


def table(
    attack: str,
    counts: list[int],
    methods: Mapping[str, dict[str, Any]],
    overrides: list[Any],
    unharmed: dict[tuple[str, str], str],
) -> list[str]:
    """Rows of a Markdown table: a method and a filter, and the accuracy for each number of malicious clients.

    Args:
        unharmed: (method, filter) -> the accuracy without malicious clients, the same for every attack; filled here.
    """
    lines = [f"| `{attack}` | filter | " + " | ".join(f"{n} malicious" for n in counts) + " |"]
    lines.append("|---|---|" + "---:|" * len(counts))
    print("\n".join(lines), flush=True)
    for label, own in methods.items():
        for chosen in FILTERS:
            named = {"method": {"name": label.partition(",")[0], **own}, "run": {"filter": chosen}}
            config = from_table([("here", SETTINGS), ("row", named), *overrides])
            if (label, chosen) not in unharmed and 0 in counts:
                unharmed[label, chosen] = accuracy(config, attack, 0)
            cells = [accuracy(config, attack, n) if n else unharmed[label, chosen] for n in counts]
            lines.append(f"| `{label}` | `{chosen}` | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return lines


def main(arguments: list[str] | None = None) -> dict[str, list[str]]:
    """Carry out all runs; returns the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--malicious", default="0,1,2,3,4")
    parser.add_argument("--methods", default=";".join(METHODS), help="labels, separated by semicolons")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    chosen = parser.parse_args(arguments)
    overrides = [together(chosen.set)]
    methods = {label: METHODS[label] for label in chosen.methods.split(";")}
    counts = [int(n) for n in chosen.malicious.split(",")]
    unharmed: dict[tuple[str, str], str] = {}
    return {attack: table(attack, counts, methods, overrides, unharmed) for attack in chosen.attacks.split(",")}


if __name__ == "__main__":
    main()
