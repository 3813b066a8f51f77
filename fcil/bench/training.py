"""Measure speed (`fcil bench`): local training beside a bare PyTorch loop, training's share of a run, the merge.

The bare loop is what one would write by hand: the same frozen network with the same LoRA layers, batches that are
prepared beforehand, cross-entropy, AdamW; it gathers, augments, checks and reports nothing. Both train the same factor
on the same batches with the same number of threads, in turn, and the medians are compared.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.table import Table
from torch.nn import functional as F

from fcil.arrays import Arrays
from fcil.client.data import ClientData
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.config import Config, MethodChoice, Run
from fcil.data.dataset import Dataset, Split
from fcil.data.transforms import View
from fcil.engine.simulation import prepare, simulate
from fcil.exchange.device import repeatable
from fcil.method import ClientUpdate, Method, Phase, Task
from fcil.model.adapted import AdaptedModel
from fcil.model.backbone import RANDOM, describe_backbone, load_backbone
from fcil.model.settings import TINY, Model, Precision
from fcil.registry import build_method
from fcil.scenario.tasks import Tasks
from fcil.seeding import generator
from fcil.threads import threads
from fcil.words import counted

__all__ = ["Workload", "run_bench"]

Tell = Callable[[str], None]

CLASSES, STEPS, CLIENTS, MERGES = 10, 8, 10, 3


@dataclass(frozen=True)
class Workload:
    """Model, batch and hardware for which speed is measured."""

    backbone: str
    weights: str
    image_size: int
    batch: int
    rank: int
    threads: int
    precision: Precision
    device: str = "cpu"

    @property
    def model(self) -> Model:
        """Settings of the backbone; the embedded one has its weights, others random ones unless a file is given."""
        embedded = self.backbone == TINY
        return Model(
            backbone=self.backbone,
            weights=self.weights or ("embedded" if embedded else RANDOM),
            image_size=self.image_size or (32 if embedded else 224),
            precision=self.precision,
        )


def _images(workload: Workload) -> Dataset:
    """Make random images, augmented by crop and flip: as much work for the data path as any real set gives it."""
    rng = generator(0, "bench")
    size, n = workload.model.image_size, STEPS * workload.batch
    part = Split(rng.integers(0, 256, (n, size, size, 3), np.uint8), rng.integers(0, CLASSES, n))
    names = tuple(map(str, range(CLASSES)))
    return Dataset("random", names, part, part, train_view=View(crop="area", scale=(0.5, 1.0), flip=True))


def _seconds(call: Callable[[], object]) -> float:
    """Measure the seconds until all work of a call is done, on a GPU too."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


class _Rig:
    """One method's rounds on one client, by fcil and by a bare loop; LoRM's first is a B round, its second an A."""

    def __init__(self, workload: Workload, name: str) -> None:
        self.method: Method = build_method(name, {"rank": workload.rank})
        self.phase = Phase(0, "train", Task(0, 0, CLASSES), 1, 0)
        self.backbone = describe_backbone(workload.model)
        state = self.method.begin(self.method.init(self.backbone, CLASSES, 0), self.phase, self.backbone)
        self.state, self.broadcast = state, self.method.acting(self.phase).broadcast(state, self.phase)
        self.model = AdaptedModel(
            load_backbone(workload.model), self.method.adapter, workload.device, workload.precision
        )
        self.train = Train(epochs=1, batch=workload.batch)
        data = _images(workload)
        self.data = ClientData(
            data, np.arange(len(data.train)), np.arange(CLASSES), workload.model.image_size, self.model.device
        )
        rng = generator(0, "bench")
        self.batches = list(self.data.batches(workload.batch, np.arange(len(self.data)), rng))

    def local_training(self) -> float:
        """Seconds of fcil's local training on all batches once, by the update's own record."""
        update = run_client(self.method, self.model, self.data, self.train, self.phase, self.broadcast, 0, {})
        return update.metrics["train_seconds"]

    def bare_loop(self, round: int = 1) -> float:
        """Seconds of the bare PyTorch loop, training the arrays that the method trains in that round."""
        names = (
            self.method.acting(self.phase).local(replace(self.phase, round=round)).trained(list(self.broadcast.arrays))
        )
        leaves = self.model.load(self.broadcast.arrays, names)
        optimizer = torch.optim.AdamW(list(leaves.values()), lr=self.train.lr, weight_decay=0.0, fused=True)

        def loop() -> None:
            for x, y, _ in self.batches:
                loss = F.cross_entropy(self.model.logits(self.model.features(x)), y)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        return _seconds(loop)

    def forward(self) -> float:
        """Seconds of the forward passes alone, without gradients."""
        self.model.load(self.broadcast.arrays)
        with torch.no_grad():
            return _seconds(lambda: [self.model.features(x) for x, _, _ in self.batches])

    def merge(self) -> float:
        """Seconds of the server's merge of CLIENTS updates."""
        updates = [self._update(client) for client in range(CLIENTS)]
        return _seconds(lambda: self.method.acting(self.phase).merge(self.state, self.phase, updates))

    def _update(self, client: int) -> ClientUpdate:
        rng = generator(0, "bench", client)
        local = self.method.acting(self.phase).local(self.phase)
        names = local.trained(list(self.broadcast.arrays))
        arrays: Arrays = {n: rng.normal(size=self.broadcast.arrays[n].shape).astype(np.float32) for n in names}
        update = run_client(
            self.method, self.model, _few(self.data), Train(epochs=1, batch=2), self.phase, self.broadcast, client, {}
        )
        return ClientUpdate(client, 0, 1, arrays, update.statistics)


def _few(data: ClientData) -> ClientData:
    return ClientData(data.dataset, data.indices[:2], data.positions, data.size, data.device)


def _share_of_run(workload: Workload, name: str) -> float:
    """Measure clients' share of the seconds of a small whole run on the embedded data and backbone."""
    config = Config(
        tasks=Tasks(count=5),
        train=Train(rounds=2, epochs=2),
        method=MethodChoice(name, {"rank": min(workload.rank, 128)}),
        run=Run(device=workload.device),
    )
    with TemporaryDirectory() as folder:
        seconds = simulate(prepare(config, Path(folder) / "run"), Path(folder) / "run")["seconds"]
    return float(seconds["clients"] / seconds["total"])


def _measure(workload: Workload, repeats: int, name: str, tell: Tell) -> tuple[dict[str, list[float]], list[float]]:
    """Measure the seconds of each thing compared, `repeats` times and in turn, and the seconds of merges."""
    repeatable(torch.device(workload.device))  # as in a run; the bare loop too, so that the same kernels are compared
    with threads(workload.threads):
        rig = _Rig(workload, name)
        measures: dict[str, Callable[[], float]] = {
            "fcil": rig.local_training, "bare": rig.bare_loop, "second": lambda: rig.bare_loop(2),
            "forward": rig.forward,
        }  # fmt: skip
        if workload.precision != "fp32":
            measures["fp32"] = _Rig(replace(workload, precision="fp32"), name).local_training
        runs = []
        for number in range(repeats + 1):
            tell(f"measuring {number} of {repeats}" if number else "warming up")
            runs.append({name: measure() for name, measure in measures.items()})
        merges = []
        for number in range(MERGES):
            tell(f"measuring merge {number + 1} of {MERGES}")
            merges.append(rig.merge())
    return {name: [run[name] for run in runs[1:]] for name in measures}, merges


def run_bench(workload: Workload, repeats: int, name: str, tell: Tell = lambda text: None) -> Table:
    """Measure the speed of a method on a workload and lay it out as a table.

    Args:
        repeats: pairs of measurements, of which medians are taken.
        name: the method whose rounds are measured.
        tell: told of each measurement before it begins.
    """
    seconds, merges = _measure(workload, repeats, name, tell)
    tell("measuring a small whole run")
    share = _share_of_run(workload, name)
    images = STEPS * workload.batch

    def median(measure: str) -> float:
        return statistics.median(seconds[measure])

    def ratio(of: str, to: str) -> float:
        """Median of the ratios of measurements taken one after the other."""
        return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))

    table = Table("figure", "value", box=None)
    table.add_row(
        "backbone", f"{workload.backbone} at {workload.model.image_size} px, {workload.precision}, {workload.device}"
    )
    table.add_row("per step", f"batch {workload.batch}, rank {workload.rank}, {counted(workload.threads, 'thread')}")
    table.add_row("our local training, first round", f"{images / median('fcil'):.1f} images/s")
    table.add_row("bare PyTorch loop, same layers and batches", f"{images / median('bare'):.1f} images/s")
    table.add_row("speed, ours / bare, median of pairs", f"{ratio('bare', 'fcil'):.3f}")
    table.add_row("a step of the first round in forward passes", f"{ratio('bare', 'forward'):.2f}")
    table.add_row("a step of the second round in forward passes", f"{ratio('second', 'forward'):.2f}")
    if "fp32" in seconds:
        table.add_row(f"speed, {workload.precision} / fp32", f"{ratio('fp32', 'fcil'):.2f}")
    table.add_row(f"merge of a first round, {CLIENTS} clients", f"{1e3 * statistics.median(merges):.1f} ms")
    table.add_row("clients' share of a whole run (digits, embedded ViT)", f"{100 * share:.1f} %")
    return table
