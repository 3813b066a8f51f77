"""The re-weighting of one class's learned prototypes over clients (PILoRA, arXiv 2401.02094)."""

import numpy as np

__all__ = ["reweighted", "weights"]


def weights(prototypes: np.ndarray, means: np.ndarray, sharpness: float) -> np.ndarray:
    """The clients' weights: s_k = 1 / sum_j |p_k - f_j|, brought to 0 ... 1 over clients, then softmax.

    Args:
        prototypes: p_k of all clients k, (clients, width).
        means: mean features f_j of the clients j that have the class, (holders, width).
        sharpness: by which the s_k between 0 and 1 are multiplied.

    Returns:
        (clients,), of sum 1; equal where nobody has the class, or all s_k are the same.
    """
    distances = np.linalg.norm(prototypes[:, None] - means[None], axis=2).sum(1)
    if not len(means):
        distances = np.ones(len(prototypes))
    closeness = 1 / np.maximum(distances, 1e-12)
    low, high = closeness.min(), closeness.max()
    spread = np.zeros_like(closeness) if high - low <= 1e-9 * high else (closeness - low) / (high - low)
    powers = np.exp(sharpness * (spread - 1))
    return np.asarray(powers / powers.sum())


def reweighted(prototypes: np.ndarray, means: np.ndarray, sharpness: float) -> np.ndarray:
    """The server's prototype, (width,), the clients' weighted by `weights`; the arguments are those."""
    return np.asarray(weights(prototypes, means, sharpness) @ prototypes)
