"""Seconds of LoRM's merges at ViT-B/16 shapes: 10 clients, rank 16, on 2 cores. Limits are in the table.

    python tests/benchmarks/bench_merge.py [--full]

Statistics are Grams of random inputs with scales that differ by feature, as layer inputs do; no backbone is loaded.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from fcil.method import Backbone, ClientUpdate, Phase, Task
from fcil.registry import build_method
from fcil.server.validation import expected
from fcil.threads import threads

CLIENTS, TASK, WIDTH = 10, Task(0, 0, 10), 768
SHAPES = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
BACKBONE = Backbone(WIDTH, {f"blocks.{b}.{layer}": shape for b in range(12) for layer, shape in SHAPES.items()})


def gram_half(n: int, rng: np.random.Generator) -> np.ndarray:
    """Upper half of the Gram of 2 n inputs."""
    x = (rng.standard_normal((2 * n, n)) * np.exp(rng.normal(0, 1, n))).astype(np.float32)
    gram = x.T @ x
    return np.concatenate([gram[i, i:] for i in range(n)])


def statistic(shape: tuple[int, ...], name: str, rng: np.random.Generator, built: dict[int, np.ndarray]) -> np.ndarray:
    """Of the right form: a half of a Gram, or a diagonal. Large halves are shared by layers: speed is the same."""
    if name.endswith("input_energy"):
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    n = round((np.sqrt(8 * shape[0] + 1) - 1) / 2)
    if n not in built:
        built[n] = gram_half(n, rng)
    return built[n]


def updates(method: object, phase: Phase, state: object) -> list[ClientUpdate]:
    """Ten clients' replies to a phase."""
    sent = method.broadcast(state, phase)  # type: ignore[attr-defined]
    wanted = expected(phase, sent, method.local(phase), dict.fromkeys(range(CLIENTS), 100))  # type: ignore[attr-defined]
    results = []
    for client in range(CLIENTS):
        rng = np.random.default_rng(client)
        built: dict[int, np.ndarray] = {}
        arrays = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in wanted.arrays.items()}
        statistics = {n: statistic(shape, n, rng, built) for n, shape in wanted.statistics.items()}
        results.append(ClientUpdate(client, phase.index, 100, arrays, statistics))
    return results


def timed(once: Callable[[], object], repeats: int) -> float:
    """Median of seconds, after one for warming up where it is repeated."""
    taken = []
    for _ in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        once()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[-repeats:])


def measure(repeats: int, **settings: str) -> dict[str, float]:
    """Seconds of a B round, an A round, and a task's end with the arrays to deploy."""
    method = build_method("lorm", {"rank": 16, **settings})
    phases = [Phase(i, kind, TASK, i + 1, 0) for i, kind in enumerate(method.phases(TASK, 2))]
    state = method.begin(method.init(BACKBONE, 100, 0), phases[0], BACKBONE)
    results = {}
    for name, phase in zip(("B round", "A round", "task merge"), phases, strict=True):
        replies = updates(method, phase, state)
        ends = name == "task merge"

        def once(
            phase: Phase = phase, replies: list[ClientUpdate] = replies, before: object = state, ends: bool = ends
        ) -> object:
            after = method.merge(before, phase, replies)  # type: ignore[arg-type]
            return method.deploy(after, phase) if ends else after

        results[name] = timed(once, repeats)
        state = method.merge(state, phase, replies)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Merges at ViT-B/16 shapes.")
    parser.add_argument("--full", action="store_true", help="whole Grams too (3 GB of memory)")
    with threads(2):
        print("| Grams | merge | ms | limit |\n| --- | --- | ---: | ---: |")
        limits = {"B round": 100, "A round": 50, "task merge": 300}
        for name, seconds in measure(5).items():
            print(f"| diagonal | {name} | {1e3 * seconds:.0f} | {limits[name]} |")
        print(f"| exact P | B round | {1e3 * measure(5, gram_b='exact')['B round']:.0f} | 100 |")
        if parser.parse_args().full:
            for name, seconds in measure(1, gram_b="exact", gram_a="full").items():
                print(f"| whole | {name} | {1e3 * seconds:.0f} | 10000 |")


if __name__ == "__main__":
    main()
