"""Peak memory and time of a training step of every adapter, and of sparse tuning with a stored mask.

    python tests/benchmarks/bench_adapters.py [--shapes vit_small_patch16_224,...] [--batch 8] [--rank 32] [--json FILE]

Every case runs in a process of its own: a timm model with random weights, AdamW, a head of 100 classes. "mask" and
"full in place" train the weights themselves, "mask beside" and the adapter "full" changes beside the frozen ones. Peak
is that of the second step, with the model, the batch and the optimiser's states: on a GPU
torch.cuda.max_memory_allocated; on a CPU the tensors alive before the step plus the highest running sum of the
allocations that torch.profiler records. The process's own high-water mark (VmHWM), libraries included, stands beside
it. Seconds are those of the second step, on a CPU of processor time. Ratios are held against the published saving of
SNELL-32 beside GPS, a sparse tuning with a stored mask (arXiv 2411.01800, batch 8).
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

from fcil.method import Task, head
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import describe_backbone, load_backbone
from fcil.model.full import Full
from fcil.model.loftq import Loftq
from fcil.model.lora import DELTA, Lora
from fcil.model.settings import Model
from fcil.model.snell import Snell, Snella
from fcil.seeding import generator, torch_generator

CASES = ("head", "lora", "loftq", "snell", "snella", "mask", "mask beside", "full", "full in place")
SHAPES = "vit_small_patch16_224,vit_base_patch16_224,vit_large_patch16_224"
PUBLISHED = {"vit_base_patch16_224": (2428, 1673), "vit_large_patch16_224": (7522, 4519)}
"""MB of GPS and of SNELL-32."""
SPARSITY = 0.9


def masked(leaf: Tensor) -> Tensor:
    """Let a leaf change only where a stored mask says so, as sparse tuning does."""
    mask = torch.rand(leaf.shape, generator=torch_generator(0, "mask"), device="cpu").to(leaf.device) > SPARSITY

    def keep_chosen(own: Tensor) -> None:
        own.grad.mul_(mask)

    leaf.register_post_accumulate_grad_hook(keep_chosen)
    return leaf


def build(case: str, shape: str, rank: int, image: int, device: str) -> tuple[AdaptedModel, list[Tensor]]:
    """Make the model of a case, and all that trains in it."""
    settings = Model(backbone=shape, weights="random", image_size=image)
    network, backbone = load_backbone(settings), describe_backbone(settings)
    rows = head.new_rows(Task(0, 0, 100), backbone.width, generator(0, "head"))
    adapters = {
        "snell": Snell(rank, SPARSITY), "snella": Snella(rank, SPARSITY, SPARSITY), "loftq": Loftq(rank, iterations=1),
        "full": Full(),
    }  # fmt: skip
    adapter = adapters.get(case, Lora(rank))
    plain = case in ("head", "full in place", "mask")
    adapted = AdaptedModel(network, None if plain else adapter, device, "fp32")
    arrays, fixed = {}, {}
    if not plain and case != "mask beside":
        arrays, fixed = adapter.initial_and_fixed(backbone, lambda name: generator(0, name))
    if case == "mask beside":
        layers = adapter.layers(backbone)
        arrays = {name + DELTA: generator(0, name).normal(0, 1e-4, side).astype("f4") for name, side in layers.items()}
    trained = adapted.load({**arrays, **rows, **fixed}, [n for n in (*arrays, *rows) if not n.endswith(".sparsity")])
    leaves = [masked(leaf) if case == "mask beside" and n.endswith(DELTA) else leaf for n, leaf in trained.items()]
    if case == "full in place":
        leaves += network.requires_grad_(True).parameters()
    if case == "mask":
        weights = [network.get_submodule(name).weight for name in adapter.layers(backbone)]
        leaves += [masked(weight.requires_grad_(True)) for weight in weights]
    return adapted, leaves


def alive() -> int:
    """Count the bytes of all tensors that exist, each storage once."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [o for o in gc.get_objects() if isinstance(o, Tensor)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def highest_sum(profile: torch.profiler.profile) -> int:
    """The most bytes, beyond those at its start, that a profile saw allocated at once."""
    recorded = profile.profiler.kineto_results.events()
    events = sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(itertools.accumulate(e.nbytes() for e in events))


def measure(case: str, shape: str, rank: int, image: int, batch: int) -> dict[str, float]:
    """Peak of a step in MB, high-water mark of the process in MB, seconds of a step, numbers that train in millions."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if case not in CASES:
        raise SystemExit(f"{case}: no case; there are {', '.join(CASES)}")
    adapted, leaves = build(case, shape, rank, image, device)
    optimizer = torch.optim.AdamW(leaves, lr=1e-4, fused=True)
    images = torch.randn(batch, 3, image, image, generator=torch_generator(1)).to(device)
    labels = torch.arange(batch, device=device) % 100

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(adapted.logits(adapted.features(images)), labels).backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    before = alive()
    clock = time.perf_counter if device == "cuda" else time.process_time  # what others take of a CPU does not count
    start = clock()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        seconds, peak = clock() - start, torch.cuda.max_memory_allocated()
    else:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
            seconds = clock() - start
        peak = before + highest_sum(profile)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"peak": peak / 1e6, "process": int(status["VmHWM"].split()[0]) / 1e3, "seconds": seconds,
            "trained": sum(leaf.numel() for leaf in leaves) / 1e6}  # fmt: skip


def table(shape: str, results: dict[str, dict[str, float]]) -> None:
    """Print a shape's results, and the saving beside sparse tuning."""
    print(f"\n{shape}\n\n| | trained, M | peak, MB | process, MB | s a step |\n|---|---:|---:|---:|---:|")
    for case, r in results.items():
        print(f"| {case} | {r['trained']:.2f} | {r['peak']:.0f} | {r['process']:.0f} | {r['seconds']:.1f} |")
    for case in [c for c in ("snell", "snella") if c in results]:
        for other in [c for c in ("lora", "mask", "mask beside", "full") if c in results]:
            print(f"{case} beside {other}: {results[case]['peak'] / results[other]['peak'] - 1:+.1%} of peak memory")
    if shape in PUBLISHED:
        gps, snell = PUBLISHED[shape]
        print(f"published, SNELL-32 beside GPS: {snell / gps - 1:+.1%} ({gps} -> {snell} MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of a training step of adapters.")
    parser.add_argument("--shapes", default=SHAPES, help="timm models, separated by commas")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write shape -> case -> results to this file too")
    parser.add_argument("--one", action="store_true", help="measure one case in this process, and print it as JSON")
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.cases, args.shapes, args.rank, args.image, args.batch)))
        return
    every = {}
    for shape in args.shapes.split(","):
        results = every[shape] = {}
        for case in args.cases.split(","):
            words = [f"--shapes={shape}", f"--cases={case}", f"--rank={args.rank}", f"--image={args.image}"]
            words += [f"--batch={args.batch}", f"--threads={args.threads}"]
            command = [sys.executable, __file__, "--one", *words]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results[case] = json.loads(done.stdout.splitlines()[-1])
        table(shape, results)
    if args.json:
        args.json.write_text(json.dumps(every, indent=2))


if __name__ == "__main__":
    main()
