"""A whole run of LoRM beside a bare loop: Fashion-MNIST's first 3,000 images, 5 tasks, ViT-S/14 at 56 px.

    python tests/benchmarks/bench_run.py --weights vit.safetensors [--precision bf16] [--train 3000]

Prints the share of a run that is not training, Gram passes or evaluation; a run's seconds over those of the bare loop
for the same training steps with as many processes; and one Ray worker's seconds over two workers'. The bare loop trains
the same factor and head on the same batches, prepared beforehand, and does nothing else: no Grams, merges, evaluation,
records. It is timed on the first task's clients and multiplied by the tasks, which are of about equal size.
"""

import argparse
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

from fcil.client.data import ClientData
from fcil.config import Config, load_config
from fcil.engine.simulation import prepare, simulate
from fcil.exchange.worker import Worker
from fcil.server.loop import ask
from fcil.server.plan import initial_progress

ROOT = Path(__file__).resolve().parent.parent.parent


def bare(config: Config, clients: list[int], rounds: list[int]) -> float:
    """Seconds of the training steps of some clients in all tasks, one round after the other."""
    torch.set_num_threads(config.run.threads)
    worker = Worker.of(config)
    plan = prepare(config).plan
    request = ask(plan, initial_progress(plan))
    taken = 0.0
    for client in clients:
        data = ClientData(
            worker.dataset, worker.scenario.parts[0][client], worker.scenario.positions, config.model.image_size,
            worker.model.device,
        )  # fmt: skip
        rng = request.phase.generator("bench")
        prepared = list(data.batches(config.train.batch, rng.permutation(len(data)), rng))
        for round in rounds:
            phase = replace(request.phase, round=round)
            sent = request.broadcast.arrays
            names = plan.method.local(phase).trained(list(sent))
            leaves = worker.model.load(sent, names)
            optimizer = torch.optim.AdamW(list(leaves.values()), lr=config.train.lr, weight_decay=0.0, fused=True)
            start = time.perf_counter()
            for _ in range(config.train.epochs):
                for x, y, _ in prepared:
                    loss = F.cross_entropy(worker.model.logits(worker.model.features(x)), y)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            taken += time.perf_counter() - start
    return taken


def bare_seconds(config: Config, processes: int) -> float:
    """Until the last of several processes is done, each with the longest client that is left."""
    counts = [len(part) for part in prepare(config).worker.scenario.parts[0]]
    shares: list[list[int]] = [[] for _ in range(processes)]
    for client in sorted(range(len(counts)), key=lambda c: -counts[c]):
        min(shares, key=lambda share: sum(counts[c] for c in share)).append(client)
    rounds = list(range(1, config.train.rounds + 1))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return max(pool.starmap(bare, [(config, share, rounds) for share in shares]))


def run(config: Config) -> dict[str, float]:
    """Seconds of a run by activity."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        return dict(simulate(prepare(config, path), path)["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description="A whole run beside a bare loop.")
    parser.add_argument(
        "--weights", default="random", help="a weights file of the ViT-S/14; speed is the same with random"
    )
    parser.add_argument("--precision", default="bf16")
    parser.add_argument(
        "--train", type=int, default=3000, help="training images; fewer make the fixed costs weigh more"
    )
    args = parser.parse_args()
    chosen = [f'model.weights="{args.weights}"', f'model.precision="{args.precision}"', 'run.exchange="inline"']
    chosen.append(f"data.train_limit={args.train}")
    whole = load_config(ROOT / "configs" / "fashion_mnist" / "beta0.5.toml", chosen)
    inline = run(whole)
    outside = 1 - (inline["clients"] + inline["evaluation"]) / inline["total"]
    print(f"inline, one thread: {inline['total']:.0f} s, of which {100 * outside:.1f} % outside clients and evaluation")
    steps = whole.tasks.count * bare_seconds(whole, 1)
    print(f"bare loop, one process: {steps:.0f} s; ours / bare {inline['total'] / steps:.2f}")
    ray = {n: run(replace(whole, run=replace(whole.run, exchange="ray", workers=n))) for n in (1, 2)}
    two = whole.tasks.count * bare_seconds(whole, 2)
    print(f"Ray, two workers: {ray[2]['total']:.0f} s; bare loop, two processes: {two:.0f} s; ours / bare "
          f"{ray[2]['total'] / two:.2f}")  # fmt: skip
    gain = ray[1]["total"] / ray[2]["total"]
    print(f"Ray: one worker {ray[1]['total']:.0f} s, two {ray[2]['total']:.0f} s: {gain:.2f}x")


if __name__ == "__main__":
    main()
