"""Server seconds, memory and upload of every merge of changes, at ViT-B/16 shapes: 10 experts, rank 16.

    python tests/benchmarks/bench_merging.py [NAME ...] [--svd] [--threads 2]

Prints a table over all merges that the registry has, or those named, as they merge tasks by default: seconds of
`combine`, and of processor time, which others on the machine disturb less; the memory that it takes beside the experts'
factors; and the floats that a client uploads in a round, with what merging tasks needs on top, beside the formula.
Factors and statistics are random.

With --svd also, for one layer of each shape, KnOTS in factors beside the dense SVD of [dW_1 | ... | dW_n] (minutes).
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
from bench_merge import BACKBONE, CLIENTS, SHAPES, TASK, gram_half

from fcil.merging import knots
from fcil.merging.expert import Expert
from fcil.merging.lowrank import TOLERANCE, LowRank, dense
from fcil.merging.ties import Entries, trim_elect_merge
from fcil.method import REPORT, Phase
from fcil.model.lora import A, B
from fcil.registry import build_method, method_class, method_names
from fcil.seeding import generator
from fcil.server.validation import expected
from fcil.threads import threads
from strategies._merging import MergeMethod

RANK, BLOCKS = 16, 12
PAIR = "r(o+i)"
FORMULAS = {"regmean": "r(o+i) + i(i+1)/2", "fisher": "r(o+i) + oi", "mats": "r(o+i) + i(i+1)/2 + o(o+1)/2"}
"""Upload of a layer, as the papers have it, where it is more than the pair; o = out, i = in."""
VALUES: dict[str, Callable[[int, int], int]] = {
    PAIR: lambda o, i: RANK * (o + i),
    FORMULAS["regmean"]: lambda o, i: RANK * (o + i) + i * (i + 1) // 2,
    FORMULAS["fisher"]: lambda o, i: RANK * (o + i) + o * i,
    FORMULAS["mats"]: lambda o, i: RANK * (o + i) + i * (i + 1) // 2 + o * (o + 1) // 2,
}


def factors(expert: int, layer: str) -> LowRank:
    """Random, in float32 as they arrive."""
    out, width = BACKBONE.linears[layer]
    rng = generator(0, "factors", expert, layer)
    return LowRank(
        rng.standard_normal((out, RANK), np.float32), rng.uniform(-1, 1, (RANK, width)).astype(np.float32) / 30
    )


def statistic(shape: tuple[int, ...], rng: np.random.Generator, built: dict[int, np.ndarray]) -> np.ndarray:
    """Half of a Gram where the length is that of one, else positive numbers; large halves are shared by layers."""
    n = round((np.sqrt(8 * np.prod(shape) + 1) - 1) / 2)
    if len(shape) > 1 or n * (n + 1) // 2 != shape[0]:
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    if n not in built:
        built[n] = gram_half(n, rng)
    return built[n]


def measured(name: str, changes: list[dict[str, LowRank]]) -> str:
    """A row of the table."""
    method = build_method(name, {"rank": RANK})
    assert isinstance(method, MergeMethod)
    phases = [Phase(n, kind, TASK, n + 1, 0) for n, kind in enumerate(method.phases(TASK, 1))]
    state = method.begin(method.init(BACKBONE, 100, 0), phases[0], BACKBONE)
    asked = [expected(p, method.broadcast(state, p), method.local(p), {}) for p in phases]
    trained = sum(int(np.prod(shape)) for n, shape in asked[0].arrays.items() if n.endswith((A, B)))
    reported = {n: shape for e in asked if e.phase.kind == REPORT for n, shape in e.statistics.items()}
    result, built = [], dict[int, np.ndarray]()
    for i in range(CLIENTS):
        rng = generator(0, "statistics", i)
        result.append({n: statistic(shape, rng, built) for n, shape in reported.items()})
    experts = [Expert(c, 1.0, s) for c, s in zip(changes, result, strict=True)]
    tracemalloc.start()
    start, busy = time.perf_counter(), time.process_time()
    for _ in method.combine(experts, lambda *purpose: generator(0, *purpose)):
        del _
    taken = f"{time.perf_counter() - start:.1f} | {time.process_time() - busy:.1f}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    formula = FORMULAS.get(name, PAIR)
    value = sum(VALUES[formula](o, i) for o, i in BACKBONE.linears.values())
    upload = trained + sum(int(np.prod(shape)) for shape in reported.values())
    return f"| {name} | {taken} | {peak / 1e6:.0f} | {upload:,} | {formula} | {value:,} |"


def table(names: list[str]) -> Iterator[str]:
    changes = [{layer: factors(i, layer) for layer in BACKBONE.linears} for i in range(CLIENTS)]
    size = sum(c.b.nbytes + c.a.nbytes for each in changes for c in each.values())
    largest = 8 * max(o * i for o, i in BACKBONE.linears.values())
    yield f"The experts' factors: {size / 1e6:.0f} MB in float32. A dense layer: at most {largest / 1e6:.0f} MB.\n"
    yield "| merge | seconds | processor s | MB beside the factors | floats up | formula | its value |"
    yield "| --- | ---: | ---: | ---: | ---: | --- | ---: |"
    for name in names:
        yield measured(name, changes)


def dense_knots(changes: list[LowRank]) -> np.ndarray:
    """KnOTS-TIES of one layer, the long way."""
    u, s, vt = np.linalg.svd(np.concatenate([dense(c) for c in changes], 1), full_matrices=False)
    k = int((s > TOLERANCE * s[0]).sum())
    u, coordinates = u[:, :k], np.split(s[:k, None] * vt[:k], len(changes), axis=1)
    experts = [Expert({"layer": LowRank(np.eye(k), c)}) for c in coordinates]
    return np.asarray(u @ dict(trim_elect_merge(Entries(experts)))["layer"])


def factor_knots(changes: list[LowRank]) -> np.ndarray:
    """KnOTS-TIES of one layer, in factors; made dense at the end only to be compared."""
    space = knots.column_basis(changes)
    merged = dict(trim_elect_merge(Entries([Expert({"layer": c}) for c in space.coordinates])))["layer"]
    return dense(space.to_weights(merged))


def basis(changes: list[LowRank]) -> None:
    """The part that the SVD is: U and the coordinates, dense."""
    u, s, vt = np.linalg.svd(np.concatenate([dense(c) for c in changes], 1), full_matrices=False)
    assert u.shape[1] == len(s) == len(vt)


def seconds(once: Callable[[], object], repeats: int) -> float:
    """Of processor time, the least of some."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        once()
        taken.append(time.process_time() - start)
    return min(taken)


def svd() -> Iterator[str]:
    yield "\nProcessor seconds.\n"
    yield "| layer | dense SVD | in factors | times | largest difference of KnOTS-TIES, relative |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    total = np.zeros(2)
    for layer, shape in SHAPES.items():
        changes = [factors(i, f"blocks.0.{layer}") for i in range(CLIENTS)]
        slow = seconds(lambda changes=changes: basis(changes), 1)  # type: ignore[misc]
        fast = seconds(lambda changes=changes: knots.column_basis(changes), 5)  # type: ignore[misc]
        one, other = dense_knots(changes), factor_knots(changes)
        gap = np.abs(one - other).max() / np.abs(one).max()
        total += (slow, fast)
        yield f"| {layer} {shape} | {slow:.2f} | {fast:.3f} | {slow / fast:.0f} | {gap:.0e} |"
    slow, fast = BLOCKS * total
    yield f"| all {BLOCKS * len(SHAPES)} | {slow:.0f} | {fast:.1f} | {slow / fast:.0f} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Merges of changes at ViT-B/16 shapes.")
    known = [n for n in method_names() if issubclass(method_class(n), MergeMethod)]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--svd", action="store_true", help="KnOTS in factors beside the dense SVD (minutes)")
    parser.add_argument("--threads", type=int, default=2, help="of NumPy")
    chosen = parser.parse_args()
    with threads(chosen.threads):
        for line in table(chosen.names or known):
            print(line, flush=True)
        for line in svd() if chosen.svd else ():
            print(line, flush=True)


if __name__ == "__main__":
    main()
