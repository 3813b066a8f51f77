"""LoRM's steps, statistics and merges beside the same work as the paper's released code does it, one thread.

    python tests/benchmarks/bench_released.py [--backbone vit_small_patch14_dinov2 --image-size 56] [--repeats 3]

What the released code does (github.com/aimagelab/fed-mammoth at 308d88c, read, not copied): a step copies the whole
state and adds B A to every weight; the pass for statistics sums whole Grams x^T x of every layer's inputs and then
keeps their diagonals; the server multiplies by them as matrices and inverts their sum by a pseudo-inverse in float64.
Both get the same factors, images and order, and the results are compared. Merges are one ViT-B/16 block of ten clients.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fcil.client.data import ClientData
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import Dataset, Split
from fcil.data.transforms import View
from fcil.method import Backbone, ClientUpdate, Phase, Task
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import RANDOM, describe_backbone, load_backbone
from fcil.model.settings import Model
from fcil.registry import build_method
from fcil.seeding import generator
from fcil.threads import threads

CLASSES, CLIENTS, RANK, BATCH, STEPS, WIDTH = 10, 10, 16, 16, 4, 768
BLOCK = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
TASK = Task(0, 0, CLASSES)
B_ROUND, A_ROUND = Phase(0, "train", TASK, 1, 0), Phase(1, "train", TASK, 2, 0)


def upper_half(gram: np.ndarray) -> np.ndarray:
    """The packed upper half of a symmetric matrix, float32."""
    return gram[np.triu_indices(len(gram))].astype(np.float32)


def seconds(*calls: Callable[[], object], repeats: int) -> list[float]:
    """Median seconds of each call; they take turns, after one round for warming up."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, results in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            results.append(time.perf_counter() - start)
    return [statistics.median(results[1:]) for results in taken]


class Released:
    """One client's training as the released code does it: a plain network, its state copied at every step."""

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, arrays: dict[str, np.ndarray]) -> None:
        self.network, self.images, self.labels = network.eval().requires_grad_(False), images, labels
        self.factors = {name: torch.tensor(a) for name, a in arrays.items() if "lora" in name}
        self.layers = sorted({name.rpartition(".")[0] for name in self.factors})
        self.head = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items() if "head" in name}

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's state, with B A added to every adapted weight."""
        state = deepcopy(dict(self.network.state_dict()))
        for layer in self.layers:
            change = self.factors[f"{layer}.lora_B"] @ self.factors[f"{layer}.lora_A"]
            state[f"{layer}.weight"] = state[f"{layer}.weight"] + change
        return state

    def train(self) -> None:
        """Take the steps of a B round."""
        leaves = [leaf.requires_grad_() for name, leaf in self.factors.items() if name.endswith("lora_B")]
        optimizer = torch.optim.AdamW([*leaves, *self.head.values()], lr=1e-3, weight_decay=0)
        weight, bias = (next(a for n, a in self.head.items() if n.endswith(end)) for end in ("weight", "bias"))
        for x, y in zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True):
            optimizer.zero_grad()
            logits = F.linear(functional_call(self.network, self.weights(), x), weight, bias)
            F.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor]:
        """Whole Grams of all layers' inputs over the images, then only their diagonals."""
        grams: dict[str, Tensor] = {}

        def summing(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                x = inputs[0].flatten(0, -2)
                grams[layer] = grams.get(layer, 0) + x.T @ x

            return add

        hooks = [self.network.get_submodule(n).register_forward_pre_hook(summing(n)) for n in self.layers]
        state = self.weights()
        for x in self.images.split(4 * BATCH):
            functional_call(self.network, state, x)
        for hook in hooks:
            hook.remove()
        return {layer: gram * torch.eye(len(gram)) for layer, gram in grams.items()}


def local_part(model: Model, repeats: int) -> None:
    """Compare the steps and the statistics of one client."""
    rng, size = generator(0, "released"), model.image_size
    part = Split(
        rng.integers(0, 256, (STEPS * BATCH, size, size, 3), np.uint8), rng.integers(0, CLASSES, STEPS * BATCH)
    )
    data = Dataset("random", tuple(map(str, range(CLASSES))), part, part, train_view=View(crop="whole"))
    mine = ClientData(data, np.arange(len(part)), np.arange(CLASSES), size, torch.device("cpu"))
    method, backbone = build_method("lorm", {"rank": RANK}), describe_backbone(model)
    state = method.begin(method.init(backbone, CLASSES, 0), B_ROUND, backbone)
    broadcast = method.broadcast(state, B_ROUND)
    adapted = AdaptedModel(load_backbone(model), method.adapter)
    order = generator(0, "order").permutation(len(part))
    theirs = Released(load_backbone(model), mine.images(order), mine.labels(order), dict(broadcast.arrays))
    spent: dict[str, list[float]] = {"train_seconds": [], "report_seconds": []}

    def ours() -> None:
        metrics = run_client(method, adapted, mine, Train(epochs=1, batch=BATCH), B_ROUND, broadcast, 0, {}).metrics
        for name, values in spent.items():
            values.append(metrics[name])

    _, steps, sums = seconds(ours, theirs.train, theirs.statistics, repeats=repeats)
    trained, told = (statistics.median(values[1:]) for values in spent.values())
    what = f"{STEPS} steps of a B round, {model.backbone} at {size} px"
    print(f"| {what} | {trained:.2f} | {steps:.2f} | {steps / trained:.1f}x |")
    print(f"| its pass for statistics | {told:.2f} | {sums:.2f} | {sums / told:.1f}x |")


def merge(phase: Phase, repeats: int) -> None:
    """Compare the server's merge of one block's layers and the head, and the merged factors."""
    backbone = Backbone(WIDTH, {f"blocks.0.{layer}": shape for layer, shape in BLOCK.items()})
    method = build_method("lorm", {"rank": RANK})
    state = method.begin(method.init(backbone, CLASSES, 0), B_ROUND, backbone)
    if phase is A_ROUND:
        state = method.merge(state, B_ROUND, replies(method, state, B_ROUND)[0])
    updates, energies = replies(method, state, phase)
    start, factor = dict(method.broadcast(state, phase).arrays), "lora_B" if phase is B_ROUND else "lora_A"
    grams = [{n: torch.diag(torch.tensor(g)) for n, g in own.items()} for own in energies]

    def released() -> dict[str, np.ndarray]:
        found = {}
        for layer in backbone.linears:
            own = [torch.tensor(u.arrays[f"{layer}.{factor}"]).double() for u in updates]
            whole = [gram[layer].double() for gram in grams]
            if phase is A_ROUND:
                summed = torch.stack([a @ g for a, g in zip(own, whole, strict=True)]).sum(0)
                found[layer] = (summed @ torch.pinverse(torch.stack(whole).sum(0))).float().numpy()
                continue
            a = torch.tensor(start[f"{layer}.lora_A"]).double()
            summed = torch.stack([(b @ a) @ g for b, g in zip(own, whole, strict=True)]).sum(0)
            inverse = torch.pinverse(a @ torch.stack(whole).sum(0) @ a.T)
            found[layer] = (summed @ a.T @ inverse).float().numpy()
        return found

    ours, theirs = seconds(lambda: method.merge(state, phase, updates), released, repeats=repeats)
    merged = method.broadcast(method.merge(state, phase, updates), replace(phase, index=2, round=3)).arrays
    apart = max(_apart(merged[f"{layer}.{factor}"], found) for layer, found in released().items())
    name = f"merge of a round of {factor[-1]}, 10 clients, one block of ViT-B/16"
    print(f"| {name} | {ours:.4f} | {theirs:.2f} | {theirs / ours:.0f}x | results differ by {apart:.0e} |")


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def replies(method: object, state: object, phase: Phase) -> tuple[list[ClientUpdate], list[dict[str, np.ndarray]]]:
    """Ten clients' random factors, with the statistics that go with random energies of their layers' inputs."""
    sent = method.broadcast(state, phase)  # type: ignore[attr-defined]
    local = method.local(phase)  # type: ignore[attr-defined]
    shapes = {name: a.shape for name, a in sent.arrays.items()}
    updates, all_energies = [], []
    for client in range(CLIENTS):
        rng = generator(0, "reply", phase.index, client)
        arrays = {n: rng.standard_normal(shapes[n]).astype(np.float32) for n in local.trained(list(shapes))}
        energies = {f"blocks.0.{n}": rng.uniform(0.5, 2, shape[1]).astype(np.float32) for n, shape in BLOCK.items()}
        told = {}
        for name, shape in local.reported(shapes).items():
            layer, _, kind = name.rpartition(".")
            a = sent.arrays.get(f"{layer}.lora_A")
            if kind == "input_energy":
                told[name] = energies[layer]
            elif kind == "projected_gram":
                told[name] = upper_half((a * energies[layer].astype(float)) @ a.T)
            else:
                told[name] = upper_half(np.diag(rng.uniform(0.5, 2, WIDTH)))
            assert told[name].shape == tuple(shape), name
        updates.append(ClientUpdate(client, phase.index, 100, arrays, told))
        all_energies.append(energies)
    return updates, all_energies


def main() -> None:
    parser = argparse.ArgumentParser(description="LoRM beside the ways of its released code.")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=56)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("| one thread, fp32 | fcil, s | as released, s | ratio | |\n| --- | ---: | ---: | ---: | --- |")
    with threads(1):
        local_part(Model(backbone=args.backbone, weights=RANDOM, image_size=args.image_size), args.repeats)
        merge(B_ROUND, args.repeats)
        merge(A_ROUND, args.repeats)


if __name__ == "__main__":
    main()
