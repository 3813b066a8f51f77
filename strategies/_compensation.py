"""Weights that balance old classes against new ones, and how a client's own samples look to a model (GLFC)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fcil.method import Client

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["compensation", "outlook"]

CHUNK = 64
"""Images at a time, for their logits."""


def compensation(logits: Tensor, labels: Tensor, first: int) -> Tensor:
    """Weights w_n = |sigmoid(z_y) - 1| of samples, divided by their mean over old classes and over new ones, (n,).

    Dong et al., arXiv 2203.11473, equations 3 and 4: of either group the mean is 1. No gradient goes through them.

    Args:
        logits: (n, classes seen); labels: (n,); first: the first new class.
    """
    import torch

    slope = 1 - logits.detach().gather(1, labels[:, None])[:, 0].sigmoid()
    weights = torch.zeros_like(slope)
    for group in (labels < first, labels >= first):
        mean = slope[group].sum() / group.sum().clamp_min(1)
        weights = torch.where(group, slope / mean.clamp_min(1e-12), weights)
    return weights


def outlook(client: Client) -> tuple[float, int]:
    """The mean entropy of the classes' probabilities, in nats, and right answers, over the client's own samples."""
    import torch

    entropy, correct, samples = 0.0, 0, client.samples
    with torch.no_grad():
        for part in np.split(samples, range(CHUNK, len(samples), CHUNK)):
            z = client.model.logits(client.model.features(client.images(part)))
            entropy -= float((z.softmax(1) * z.log_softmax(1)).sum())
            correct += int((z.argmax(1) == client.labels(part)).sum())
    return entropy / max(1, len(samples)), correct
