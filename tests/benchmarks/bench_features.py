"""Closed-form classifiers beside a bare forward loop, on ViT-S/14; and what float32 on the wire moves.

    python tests/benchmarks/bench_features.py --weights vit.safetensors [--image-size 224] [--precision fp32]

Prints a client's seconds of processor time for one report over those of a loop that only runs the network on the same
batches, prepared beforehand, as the median of pairs taken in turn; then the relative change of H where sums are sent as
float32, at every penalty of the grid that the server picks from.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from fcil.client.data import ClientData
from fcil.client.training import run_client
from fcil.config import Config, load_config
from fcil.engine.simulation import prepare
from fcil.merging import packed
from fcil.merging.ridge import GRID, ridge_rows
from fcil.server.loop import ask
from fcil.server.plan import initial_progress
from fcil.statistics.features import GRAM, class_sums
from fcil.threads import threads

ROOT = Path(__file__).resolve().parent.parent.parent


def pairs(config: Config, images: int, repeats: int) -> float:
    """Median of (one report) / (bare forward loop)."""
    session = prepare(config)
    request = ask(session.plan, initial_progress(session.plan))
    worker = session.worker
    held = worker.scenario.parts[0][0][:images]
    size = config.model.image_size
    data = ClientData(worker.dataset, held, worker.scenario.positions, size, worker.model.device)
    batches = list(data.batches(4 * config.train.batch, np.arange(len(data)), None))

    def ours() -> float:
        start = time.process_time()
        run_client(session.plan.method, worker.model, data, config.train, request.phase, request.broadcast, 0, {})
        return time.process_time() - start

    def bare() -> float:
        start = time.process_time()
        with torch.no_grad():
            for x, _ in batches:
                worker.model.features(x)
        return time.process_time() - start

    with threads(config.run.threads):
        taken = [(ours(), bare()) for _ in range(repeats + 1)][1:]
    return statistics.median(a / b for a, b in taken)


def rounding(config: Config) -> list[tuple[float, float]]:
    """(penalty, relative change of H) of a whole task's sums, rounded to float32."""
    session = prepare(config)
    request = ask(session.plan, initial_progress(session.plan))
    sums = session.plan.method.sums(request.phase, request.broadcast, [
        session.worker.work(request.phase, request.broadcast, client) for client in request.num_examples
    ])  # fmt: skip
    gram, q = sums[GRAM], sums[class_sums(0)]
    results = []
    for share in GRID:
        penalty = share * float(packed.diagonal(gram).mean())
        exact, rounded = (
            ridge_rows(gram.astype(t).astype(float), q.astype(t).astype(float), penalty) for t in ("f8", "f4")
        )
        results.append((share, float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Closed-form classifiers beside a bare forward loop.")
    parser.add_argument("--weights", default="random", help="a weights file of the ViT-S/14")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    chosen = [
        f'model.weights="{args.weights}"', f'model.precision="{args.precision}"', 'run.exchange="inline"',
        "partition.clients=1",
    ]  # fmt: skip
    config = ROOT / "configs" / "fashion_mnist" / "beta0.5.toml"
    methods = {
        "ncm": ["method.name=ncm"], "ridge": ["method.name=ridge"], "ranpac, M = 1,250": ["method.name=ranpac"],
        "ranpac, M = 5,000": ["method.name=ranpac", "method.size=5000", "method.penalty=1.0"],
    }  # fmt: skip
    for label, own in methods.items():
        sized = load_config(config, [*chosen, f"model.image_size={args.image_size}", *own])
        print(f"{label}: a report takes {pairs(sized, args.images, args.repeats):.3f} of a bare forward loop")
    for label in ("ridge", "ranpac, M = 1,250"):
        result = rounding(load_config(config, [*chosen, *methods[label], "method.penalty=1.0"]))
        print(f"{label}, H from float32 sums:", ", ".join(f"{share:g}: {error:.1e}" for share, error in result))


if __name__ == "__main__":
    main()
