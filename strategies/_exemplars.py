"""A client's exemplars: samples of every class that it has seen, chosen by herding, the best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fcil.method import Client, Step, Store

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXEMPLARS", "choose", "exemplars", "herded", "normalised_features", "with_exemplars"]

EXEMPLARS = "exemplars"
"""In a client's store: its exemplars, (kept,) int64 indices into its own data; of a class as herding chose them."""
SEEN = "exemplars.seen"
"""In a client's store: the classes that have had a share of its exemplars, (classes,) int64, in rising order."""
CHUNK = 64
"""Images at a time, for their features."""


def exemplars(store: Store) -> np.ndarray:
    """The samples that the client keeps, (kept,) int64."""
    return store.get(EXEMPLARS, np.zeros(0, np.int64))


def with_exemplars(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """The batch and the exemplars that join it: images (n, 3, h, w), labels (n,), features (n, width).

    Exemplars are not shuffled among the task's samples, as in the papers: each joins a batch with the chance that a
    sample has to be in it, so that an epoch sees each once in the mean.
    """
    import torch

    client, images, labels, features = step.client, step.images, step.labels, step.features
    samples = exemplars(client.store)
    joined = samples[client.generator("exemplars").random(len(samples)) < len(labels) / len(client.samples)]
    if len(joined):
        more = client.images(joined, augment=True)
        images, labels = torch.cat([images, more]), torch.cat([labels, client.labels(joined)])
        features = torch.cat([features, step.model.features(more)])
    return images, labels, features


def normalised_features(client: Client, samples: np.ndarray) -> np.ndarray:
    """Features of samples under the test view, each of norm 1, (n, width) float64."""
    import torch

    chunks = [samples[begin : begin + CHUNK] for begin in range(0, len(samples), CHUNK)]
    with torch.no_grad():
        parts = [client.model.features(client.images(chunk)).double().cpu().numpy() for chunk in chunks]
    return _normalised(np.concatenate(parts))


def _normalised(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))


def herded(features: np.ndarray, count: int) -> list[int]:
    """Choose samples one by one so that the mean of those chosen stays near the mean of all.

    p_k = argmin_x |mu - mean(phi(x), phi(p_1), ... phi(p_k-1))| over those not yet chosen; Rebuffi et al., arXiv
    1611.07725, Algorithm 4, with means normalised as all features are.

    Args:
        features: (n, width), of norm 1.

    Returns:
        At most `count` positions, the best first.
    """
    mean, chosen = _normalised(features.mean(0)), np.zeros(features.shape[1])
    order: list[int] = []
    for k in range(1, min(count, len(features)) + 1):
        distances = np.linalg.norm(mean - _normalised((features + chosen) / k), axis=1)
        distances[order] = np.inf
        order.append(int(distances.argmin()))
        chosen = chosen + features[order[-1]]
    return order


def choose(client: Client, size: int, samples: np.ndarray | None = None) -> None:
    """Add exemplars of classes that are new among the client's, and cut those of the others: size / classes of each.

    Classes are those that this client has seen, of which others may have more. Where they are more than `size`, none
    has any: it is no class's turn.

    Args:
        samples: (n,) of the new classes' own samples; those of the current task unless given.
    """
    samples = client.samples if samples is None else samples
    old = exemplars(client.store)
    old_labels, labels = client.labels(old).cpu().numpy(), client.labels(samples).cpu().numpy()
    before = client.store.get(SEEN, np.unique(old_labels))  # checkpoints of earlier versions lack it
    classes, new = np.union1d(before, labels), np.setdiff1d(labels, before)
    share = size // max(1, len(classes))
    shares_by_class = [old[old_labels == label][:share] for label in np.unique(old_labels)]
    if share and len(new):
        features = normalised_features(client, samples)
        for label in new:
            of_class = np.flatnonzero(labels == label)
            shares_by_class.append(samples[of_class[herded(features[of_class], share)]])
    client.store[EXEMPLARS], client.store[SEEN] = np.concatenate([np.zeros(0, np.int64), *shares_by_class]), classes
