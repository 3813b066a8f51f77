"""Calibrate a linear head on features drawn from class Gaussians (CCVR, Luo et al., NeurIPS 2021, arXiv 2106.05001)."""

from collections.abc import Sequence

import numpy as np

__all__ = ["calibrated", "drawn"]

TEMPERATURE = 0.1
"""The temperature of logits of norm 1."""


def drawn(mean: np.ndarray, covariance: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw features from N(mean, covariance), (count, width) float64.

    Args:
        covariance: (width, width) or its diagonal, (width,). Eigenvalues below zero, which rounding makes, count as
            zero.
    """
    normal = rng.standard_normal((count, len(mean)))
    if covariance.ndim == 1:
        return np.asarray(mean + normal * np.sqrt(np.maximum(covariance, 0)))
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return np.asarray(mean + (normal * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def calibrated(
    rows: np.ndarray, biases: np.ndarray, features: np.ndarray, labels: np.ndarray, order: Sequence[np.ndarray],
    lr: float, momentum: float = 0.9, normalise: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Train rows and biases by cross-entropy and gradient descent with momentum, v <- momentum v + g, w <- w - lr v.

    Args:
        rows: (classes, width), and `biases`, (classes,).
        features: (n, width), and `labels`, (n,), each from 0.
        order: the samples of every step, as indices.
        normalise: the loss is of each sample's logits divided by their norm and by TEMPERATURE.

    Returns:
        Rows and biases, float64.
    """
    w = np.concatenate([rows, biases[:, None]], 1).astype(np.float64)
    x, v = np.concatenate([features, np.ones((len(features), 1))], 1), np.zeros_like(w)
    for batch in order:
        logits = x[batch] @ w.T
        norm = np.maximum(np.linalg.norm(logits, axis=1, keepdims=True), 1e-12)
        scaled = logits / norm / TEMPERATURE if normalise else logits
        share = np.exp(scaled - scaled.max(1, keepdims=True))
        gradient = share / share.sum(1, keepdims=True)
        gradient[np.arange(len(batch)), labels[batch]] -= 1
        if normalise:
            along = (gradient * logits).sum(1, keepdims=True) * logits / norm**2
            gradient = (gradient - along) / norm / TEMPERATURE
        v = momentum * v + gradient.T @ x[batch] / len(batch)
        w = w - lr * v
    return w[:, :-1], w[:, -1]
