"""Local training: (broadcast, this client's data, settings) -> ClientUpdate. Knows no transport."""

import time
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fcil.arrays import Arrays, matching
from fcil.data.dataset import Dataset, prepare
from fcil.method import Broadcast, ClientUpdate, Local, Method, Pass, Phase
from fcil.model.adapted import AdaptedModel
from fcil.model.precision import ScaledSteps
from fcil.options import Option

__all__ = ["ClientData", "Step", "Train", "run_client"]

Store = MutableMapping[str, np.ndarray]
AHEAD = 256
"""Images that a GPU renders at once."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """`[train]`: the protocol of local training."""

    rounds: Annotated[int, Option("communication rounds per task", low=1)] = 5
    epochs: Annotated[int, Option("local epochs per round", low=1)] = 5
    batch: Annotated[int, Option("batch size", "images", low=1)] = 16
    lr: Annotated[float, Option("learning rate of whatever has none of its own", above=0)] = 3e-3
    optimizer: Annotated[Literal["adamw", "sgd"], Option("built anew each round, constant rate")] = "adamw"
    weight_decay: Annotated[float, Option("decoupled weight decay", low=0)] = 0.0
    participation: Annotated[float, Option("share of the clients that train in a round", above=0, high=1)] = 1.0


@dataclass(frozen=True)
class ClientData:
    """One client's samples of one task, seen through a transform."""

    dataset: Dataset
    indices: np.ndarray
    """Into the training part."""
    positions: np.ndarray
    """The data set's label -> class position."""
    size: int
    """Side of the model's input."""
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    def batches(
        self, batch: int, order: np.ndarray, transform: np.random.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, 3, size, size) and class positions (n,), in the order given; the last batch may be smaller.

        A GPU is given several batches at once to render: it takes hardly longer than one.
        """
        ahead = max(1, AHEAD // batch) if self.device.type == "cuda" else 1
        for begin in range(0, len(order), ahead * batch):
            chosen = self.indices[order[begin : begin + ahead * batch]]
            images = prepare(self.dataset.train.images[chosen], self.dataset, self.size, transform, self.device, batch)
            labels = torch.from_numpy(self.positions[self.dataset.train.labels[chosen]]).to(self.device)
            yield from zip(torch.split(images, batch), torch.split(labels, batch), strict=True)


@dataclass
class Step:
    """One batch of local training, as a method's `loss` sees it."""

    model: AdaptedModel
    images: Tensor
    labels: Tensor
    """(n,) class positions."""
    phase: Phase
    broadcast: Broadcast
    """What the client received; see `constant`."""
    store: Store
    """The client's own arrays, kept from phase to phase: read and replaced, never sent."""
    client: int
    generator: Callable[[str], np.random.Generator]
    """purpose -> a generator that lasts for the client's phase; streams of different purposes are independent."""
    _features: Tensor | None = field(default=None, repr=False)
    _constants: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def references(self) -> Arrays:
        """The broadcast's read-only arrays."""
        return self.broadcast.references

    def constant(self, name: str) -> Tensor:
        """A reference, or else an array as it was broadcast before training, as a tensor on the model's device."""
        if name not in self._constants:
            array = self.references[name] if name in self.references else self.broadcast.arrays[name]
            self._constants[name] = torch.tensor(array, device=self.model.device)
        return self._constants[name]

    @property
    def features(self) -> Tensor:
        """(n, width), computed once."""
        if self._features is None:
            self._features = self.model.features(self.images)
        return self._features

    def cross_entropy(self) -> Tensor:
        """Mean cross-entropy over the current task's classes only: all other logits are left out."""
        task = self.phase.task
        return F.cross_entropy(self.model.logits(self.features, (task.index,)), self.labels - task.first)


def _optimizer(leaves: dict[str, Tensor], local: Local, train: Train) -> torch.optim.Optimizer:
    """Groups by learning rate; built anew in each round, so it has no memory across rounds."""
    rates: dict[float, list[Tensor]] = {}
    for name, leaf in leaves.items():
        own = [rate for pattern, rate in local.lr.items() if matching([name], (pattern,))]
        rates.setdefault(own[0] if own else train.lr, []).append(leaf)
    groups = [{"params": tensors, "lr": rate} for rate, tensors in rates.items()]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay, fused=True)


def _streams(phase: Phase, client: int) -> Callable[[str], np.random.Generator]:
    made: dict[str, np.random.Generator] = {}

    def stream(purpose: str) -> np.random.Generator:
        return made.setdefault(purpose, phase.generator(purpose, client))

    return stream


def _train(
    method: Method,
    local: Local,
    model: AdaptedModel,
    leaves: dict[str, Tensor],
    data: ClientData,
    step: Step,
    train: Train,
) -> dict[str, float]:
    """Run the epochs; the mean loss of the last one, and the steps that float16 made skip."""
    steps = ScaledSteps(_optimizer(leaves, local, train), model.device, model.precision)
    losses: list[tuple[Tensor, int]] = []
    for _ in range(train.epochs):
        losses.clear()
        order = step.generator("order").permutation(len(data))
        for images, labels in data.batches(train.batch, order, step.generator("augmentation")):
            step.images, step.labels, step._features = images, labels, None
            loss = method.loss(step)
            steps.step(loss)
            losses.append((loss.detach(), len(labels)))  # read at the end: a GPU need not be waited for at every step
    return {"loss": sum(loss.item() * n for loss, n in losses) / len(data), **steps.metrics}


def _collect(
    each: Pass, model: AdaptedModel, arrays: Arrays, references: Arrays, data: ClientData, step: Step, batch: int
) -> Arrays:
    """The statistics that share one kind of pass."""
    seen_under = each.under(arrays, references)
    model.load(seen_under, matching(seen_under, each.gradients))
    beside = [under(arrays, references) for under in each.beside]
    collectors = [statistic.start(arrays, model, step.generator) for statistic in each.statistics]
    observers: dict[str, list[Callable[[Tensor], None]]] = {}
    gradients: dict[str, Callable[[Tensor], None]] = {}
    for collector in collectors:
        gradients |= getattr(collector, "gradients", {})
        for layer, observe in collector.layers.items():
            observers.setdefault(layer, []).append(observe)
    transform = step.generator("statistics augmentation") if each.transform == "train" else None
    size = each.batch or batch
    merged = {layer: _all(several) for layer, several in observers.items()}
    with torch.set_grad_enabled(bool(each.gradients)):
        for _ in range(each.repeats):
            for n, (images, labels) in enumerate(data.batches(size, np.arange(len(data)), transform)):
                with model.observed(merged, gradients):
                    features = model.features(images)
                if beside:
                    features = torch.cat([features, *(_features(model, other, images) for other in beside)], 1)
                for collector in collectors:
                    collector.batch(features, labels, data.indices[n * size : (n + 1) * size])
    return {name: a for collector in collectors for name, a in collector.finish().items()}


def _features(model: AdaptedModel, arrays: Arrays, images: Tensor) -> Tensor:
    """(n, width), under other arrays than the loaded ones."""
    with model.using(arrays):
        return model.features(images)


def _all(several: list[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    def observe(x: Tensor) -> None:
        for one in several:
            one(x)

    return observe


def run_client(
    method: Method, model: AdaptedModel, data: ClientData, train: Train, phase: Phase, broadcast: Broadcast,
    client: int, store: Store,
) -> ClientUpdate:  # fmt: skip
    """One client's part of one phase: train what the method names, then sum what it asks for.

    The result depends on the arguments only, not on what this process did before.
    """
    began = time.perf_counter()
    local = method.local(phase)
    begun = {**local.start(broadcast.arrays, client), **local.frozen(broadcast.references)}
    broadcast = replace(broadcast, arrays=begun)
    names = local.trained(list(broadcast.arrays))
    leaves = model.load(broadcast.arrays, names)
    nothing = torch.empty(0)
    step = Step(model, nothing, nothing, phase, broadcast, store, client, _streams(phase, client))
    metrics: dict[str, float] = {}
    if names:
        metrics |= _train(method, local, model, leaves, data, step, train)
        metrics["images"] = float(train.epochs * len(data))
    trained = model.read(names)
    metrics["train_seconds"] = time.perf_counter() - began
    arrays = {**broadcast.arrays, **trained}
    statistics: dict[str, np.ndarray] = {}
    for each in local.passes:
        statistics |= _collect(each, model, arrays, broadcast.references, data, step, 4 * train.batch)
    metrics["report_seconds"] = time.perf_counter() - began - metrics["train_seconds"]
    return ClientUpdate(client, phase.index, len(data), trained, statistics, metrics)
