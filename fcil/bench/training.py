"""`fcil bench`: local training beside a bare PyTorch loop, the share of a run spent in training, and the merge.

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
from rich.console import Console
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

__all__ = ["Setting", "report"]

CLASSES, STEPS, CLIENTS = 10, 8, 10


@dataclass(frozen=True)
class Setting:
    """What is measured."""

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
        """The backbone; the embedded one has its weights, others random ones unless a file is given."""
        own = self.backbone == TINY
        return Model(
            backbone=self.backbone,
            weights=self.weights or ("embedded" if own else RANDOM),
            image_size=self.image_size or (32 if own else 224),
            precision=self.precision,
        )


def _images(setting: Setting) -> Dataset:
    """Random images, augmented by crop and flip: as much work for the data path as any real set gives it."""
    rng = generator(0, "bench")
    size, n = setting.model.image_size, STEPS * setting.batch
    part = Split(rng.integers(0, 256, (n, size, size, 3), np.uint8), rng.integers(0, CLASSES, n))
    names = tuple(map(str, range(CLASSES)))
    return Dataset("random", names, part, part, train_view=View(crop="area", scale=(0.5, 1.0), flip=True))


def _timed(once: Callable[[], object]) -> float:
    """Seconds until all work is done, on a GPU too."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
    began = time.perf_counter()
    once()
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


class _Rig:
    """One method's first round on one client, ours and bare; of LoRM it is a B round, and the second an A round."""

    def __init__(self, setting: Setting, name: str) -> None:
        self.method: Method = build_method(name, {"rank": setting.rank})
        self.phase = Phase(0, "train", Task(0, 0, CLASSES), 1, 0)
        self.backbone = describe_backbone(setting.model)
        state = self.method.begin(self.method.init(self.backbone, CLASSES, 0), self.phase, self.backbone)
        self.state, self.broadcast = state, self.method.acting(self.phase).broadcast(state, self.phase)
        self.model = AdaptedModel(load_backbone(setting.model), self.method.adapter, setting.device, setting.precision)
        self.train = Train(epochs=1, batch=setting.batch)
        data = _images(setting)
        self.data = ClientData(
            data, np.arange(len(data.train)), np.arange(CLASSES), setting.model.image_size, self.model.device
        )
        rng = generator(0, "bench")
        self.batches = list(self.data.batches(setting.batch, np.arange(len(self.data)), rng))

    def ours(self) -> float:
        """Seconds that our path needs to train on all batches once, as its own record says."""
        update = run_client(self.method, self.model, self.data, self.train, self.phase, self.broadcast, 0, {})
        return update.metrics["train_seconds"]

    def bare(self, round: int = 1) -> float:
        """Seconds of the loop written by hand, training what the method trains in that round."""
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

        return _timed(loop)

    def forward(self) -> float:
        """Seconds of the forward passes alone, without gradients."""
        self.model.load(self.broadcast.arrays)
        with torch.no_grad():
            return _timed(lambda: [self.model.features(x) for x, _, _ in self.batches])

    def merge(self) -> float:
        """Seconds of the server's merge of CLIENTS updates."""
        updates = [self._update(client) for client in range(CLIENTS)]
        return _timed(lambda: self.method.acting(self.phase).merge(self.state, self.phase, updates))

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


def _share_of_run(setting: Setting, name: str) -> float:
    """Clients' seconds over all seconds of a small whole run on the embedded data and backbone."""
    config = Config(
        tasks=Tasks(count=5),
        train=Train(rounds=2, epochs=2),
        method=MethodChoice(name, {"rank": min(setting.rank, 128)}),
        run=Run(device=setting.device),
    )
    with TemporaryDirectory() as folder:
        seconds = simulate(prepare(config, Path(folder) / "run"), Path(folder) / "run")["seconds"]
    return float(seconds["clients"] / seconds["total"])


def _measured(setting: Setting, repeats: int, name: str) -> tuple[dict[str, list[float]], list[float]]:
    """What is compared -> seconds, each in turn with the others; and those of the merge."""
    repeatable(torch.device(setting.device))  # as in a run; the bare loop too, so that the same kernels are compared
    with threads(setting.threads):
        rig = _Rig(setting, name)
        each: dict[str, Callable[[], float]] = {
            "ours": rig.ours, "bare": rig.bare, "second": lambda: rig.bare(2), "forward": rig.forward
        }  # fmt: skip
        if setting.precision != "fp32":
            each["fp32"] = _Rig(replace(setting, precision="fp32"), name).ours
        runs = [{what: once() for what, once in each.items()} for _ in range(repeats + 1)]
        merges = [rig.merge() for _ in range(3)]
    return {what: [run[what] for run in runs[1:]] for what in each}, merges


def report(setting: Setting, repeats: int, console: Console, name: str) -> None:
    """Measure and print."""
    found, merges = _measured(setting, repeats, name)
    images = STEPS * setting.batch

    def median(what: str) -> float:
        return statistics.median(found[what])

    def ratio(of: str, to: str) -> float:
        """Median of the ratios of neighbours."""
        return statistics.median(a / b for a, b in zip(found[of], found[to], strict=True))

    table = Table("figure", "value", box=None)
    table.add_row(
        "backbone", f"{setting.backbone} at {setting.model.image_size} px, {setting.precision}, {setting.device}"
    )
    table.add_row("per step", f"batch {setting.batch}, rank {setting.rank}, {setting.threads} threads")
    table.add_row("our local training, first round", f"{images / median('ours'):.1f} images/s")
    table.add_row("bare PyTorch loop, same layers and batches", f"{images / median('bare'):.1f} images/s")
    table.add_row("speed, ours / bare, median of pairs", f"{ratio('bare', 'ours'):.3f}")
    table.add_row("a step of the first round in forward passes", f"{ratio('bare', 'forward'):.2f}")
    table.add_row("a step of the second round in forward passes", f"{ratio('second', 'forward'):.2f}")
    if "fp32" in found:
        table.add_row(f"speed, {setting.precision} / fp32", f"{ratio('fp32', 'ours'):.2f}")
    table.add_row(f"merge of a first round, {CLIENTS} clients", f"{1e3 * statistics.median(merges):.1f} ms")
    table.add_row("clients' share of a whole run (digits, embedded ViT)", f"{100 * _share_of_run(setting, name):.1f} %")
    console.print(table)
