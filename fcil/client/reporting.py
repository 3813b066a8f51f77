"""What a client reports beside weights: statistics summed in passes over its data, after training."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fcil.arrays import Arrays, names_matching
from fcil.client.session import Session
from fcil.method import Pass
from fcil.model.adapted import AdaptedModel

__all__ = ["collect"]


def collect(each: Pass, client: Session, arrays: Arrays, batch: int) -> Arrays:
    """The statistics that share one kind of pass.

    Args:
        arrays: the client's arrays, those that trained in the place of the broadcast's.
        batch: batch size unless the pass has its own.
    """
    model, references, data = client.model, client.broadcast.references, client.data
    seen_under = each.model(arrays, references)
    model.load(seen_under, names_matching(seen_under, each.gradients))
    extra = [of(arrays, references) for of in each.extra_models]
    collectors = [statistic.start(arrays, model, client.generator) for statistic in each.statistics]
    observers: dict[str, list[Callable[[Tensor], None]]] = {}
    gradients: dict[str, Callable[[Tensor], None]] = {}
    for collector in collectors:
        gradients |= collector.gradients
        for layer, observe in collector.layers.items():
            observers.setdefault(layer, []).append(observe)
    transform = client.stream("statistics augmentation") if each.transform == "train" else None
    merged = {layer: _call_all(several) for layer, several in observers.items()}
    with torch.set_grad_enabled(bool(each.gradients)):
        for _ in range(each.repeats):
            for images, labels, samples in data.batches(each.batch or batch, np.arange(len(data)), transform):
                with model.observed(merged, gradients):
                    features = model.features(images)
                if extra:
                    features = torch.cat([features, *(_features(model, other, images) for other in extra)], 1)
                for collector in collectors:
                    collector.batch(features, labels, samples)
    return {name: a for collector in collectors for name, a in collector.finish().items()}


def _features(model: AdaptedModel, arrays: Arrays, images: Tensor) -> Tensor:
    """(n, width), under other arrays than the loaded ones."""
    with model.using(arrays):
        return model.features(images)


def _call_all(observers: list[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    def observe(x: Tensor) -> None:
        for observer in observers:
            observer(x)

    return observe
