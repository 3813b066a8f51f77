"""Sums the statistics that a client reports beside weights, in passes over its data after training."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from fcil.arrays import Arrays, names_matching
from fcil.client.session import ClientSession
from fcil.method import Pass
from fcil.model.adapted import AdaptedModel

__all__ = ["collect"]


def collect(data_pass: Pass, client: ClientSession, arrays: Arrays, batch: int) -> Arrays:
    """Sum the statistics of one kind of pass over a client's data.

    Args:
        arrays: the client's arrays: the broadcast's, with those that trained in their place.
        batch: batch size unless the pass has its own.
    """
    model, references, data = client.model, client.broadcast.references, client.data
    weights = data_pass.model(arrays, references)
    model.load(weights, names_matching(weights, data_pass.gradients))
    extra = [of(arrays, references) for of in data_pass.extra_models]
    collectors = [statistic.start(arrays, model, client.generator) for statistic in data_pass.statistics]
    observers: dict[str, list[Callable[[Tensor], None]]] = {}
    gradients: dict[str, Callable[[Tensor], None]] = {}
    for collector in collectors:
        gradients |= collector.gradients
        for layer, observe in collector.layers.items():
            observers.setdefault(layer, []).append(observe)
    transform = client.stream("statistics augmentation") if data_pass.transform == "train" else None
    by_layer = {layer: _call_all(many) for layer, many in observers.items()}
    positions = np.arange(len(data)) if data_pass.samples is None else np.flatnonzero(data_pass.samples(data.indices))
    with torch.set_grad_enabled(bool(data_pass.gradients)):
        for _ in range(data_pass.repeats):
            for images, labels, samples in data.batches(data_pass.batch or batch, positions, transform):
                with nullcontext() if transform else model.showing(images, "train", samples):
                    with model.observed(by_layer, gradients):
                        features = model.features(images)
                    if extra:
                        features = torch.cat([features, *(_features(model, other, images) for other in extra)], 1)
                for collector in collectors:
                    collector.batch(features, labels, samples)
    return {name: a for collector in collectors for name, a in collector.finish().items()}


def _features(model: AdaptedModel, arrays: Arrays, images: Tensor) -> Tensor:
    """Compute features, (n, width), under other arrays than the loaded ones."""
    with model.using(arrays):
        return model.features(images)


def _call_all(observers: list[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    def observe(x: Tensor) -> None:
        for observer in observers:
            observer(x)

    return observe
