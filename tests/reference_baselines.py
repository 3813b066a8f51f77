"""The classic baselines, literally: their papers' objectives and updates, slowly, in float64; see `reference`."""

import math

import numpy as np


def fedprox(loss, w, broadcast, mu):
    """Li et al., arXiv 1812.06127, Algorithm 2: h(w; w^r) = F(w) + mu / 2 |w - w^r|^2, for lists of numbers."""
    return loss + mu / 2 * sum((a - b) ** 2 for a, b in zip(w, broadcast, strict=True))


def softmax(z, temperature=1.0):
    """Probabilities of a list of logits."""
    powers = [math.exp(value / temperature - max(z) / temperature) for value in z]
    return np.array([power / sum(powers) for power in powers])
