"""Data-free diagnostics of weight changes: pairwise kinship, singular values, intruder dimensions.

All of them depend on the products B A only: they do not change when a pair (B, A) is written as (B R, R^-1 A).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fcil.errors import MergeError
from fcil.merging.lowrank import Change, LowRank, dense, inner, product_svd

__all__ = [
    "EPSILON",
    "TOP",
    "cosines",
    "grams",
    "intruders",
    "kinships",
    "left_vectors",
    "spectra",
    "spectral_features",
]

EPSILON, TOP = 0.5, 10
"""An intruder's largest cosine with a direction of W0, and how many directions of a layer are looked at in reports."""

Changes = Mapping[str, LowRank]
"""Layer name -> change of the layer's weight."""


def grams(many: Sequence[Changes]) -> dict[str, np.ndarray]:
    """Layer -> (n, n) inner products <B_i A_i, B_j A_j> of n models' changes, from factors alone.

    Raises:
        MergeError: there are no models, or their layers or shapes differ.
    """
    if not many or any(changes.keys() != many[0].keys() for changes in many):
        raise MergeError("kinship needs one model at least, and the same layers in all of them")
    n, result = len(many), {}
    for layer in many[0]:
        gram = np.empty((n, n))
        for i in range(n):
            for j in range(i + 1):
                gram[i, j] = gram[j, i] = inner(many[i][layer], many[j][layer])
        result[layer] = gram
    return result


def cosines(gram: np.ndarray) -> np.ndarray:
    """Turn inner products (n, n) into cosines; 0 between a model that did not change and any model, itself included.

    >>> cosines(np.array([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0))
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.asarray(np.clip(gram * np.outer(inverse, inverse), -1, 1))


def kinships(many: Sequence[Changes]) -> np.ndarray:
    """Model kinship: (n, n) cosines between the changes of n models, all layers taken as one vector.

    Hu et al., EMNLP Findings 2025, arXiv 2410.12613; with the sign, which their code loses.
    """
    return cosines(np.sum(list(grams(many).values()), 0))


def spectra(changes: Mapping[str, Change]) -> dict[str, np.ndarray]:
    """Layer -> singular values of its change, in falling order; those that are zero up to rounding are left out."""
    return {layer: product_svd(change)[1] for layer, change in changes.items()}


def spectral_features(changes: Mapping[str, Change], length: int) -> np.ndarray:
    """The `length` largest singular values of every layer, (layers x length,), zeros where there are fewer.

    These are the features of "Learning on LoRAs" (Putterman et al., arXiv 2410.04207) that no change of basis can hide.
    """
    leading = [values[:length] for values in spectra(changes).values()]
    return np.concatenate([np.pad(values, (0, length - len(values))) for values in leading])


def left_vectors(weight: np.ndarray, top: int | None = None) -> np.ndarray:
    """Left singular vectors, (out, k), of the `top` largest singular values, or all min(out, in)."""
    if top is None or weight.shape[0] <= top:
        return np.asarray(np.linalg.svd(weight, full_matrices=False)[0])[:, :top]
    wide = weight.shape[0] <= weight.shape[1]
    small = weight @ weight.T if wide else weight.T @ weight
    vectors = np.linalg.eigh(small)[1][:, ::-1][:, :top]  # a third of an SVD's time, and exact enough at the top
    if wide:
        return np.asarray(vectors)
    u = weight @ vectors
    return np.asarray(u / np.maximum(np.linalg.norm(u, axis=0), np.finfo(float).tiny))


def intruders(
    weight: np.ndarray, change: Change, singular_vectors: np.ndarray, epsilon: float = 0.5, top: int = 10
) -> int:
    """Count intruder dimensions: those of the `top` left singular vectors of W0 + change that are unlike all of W0's.

    Shuttleworth et al., "LoRA vs full fine-tuning: an illusion of equivalence", arXiv 2410.21228.

    Args:
        weight: (out, in) W0, or what stands in its place beside the change, such as W0 quantised.
        singular_vectors: `left_vectors(W0)`, computed once.
        epsilon: a vector is an intruder if all its cosines with W0's vectors, up to sign, are smaller.
    """
    vectors = left_vectors(weight.astype(np.float64) + dense(change), top)
    nearest = np.abs(singular_vectors.astype(np.float64).T @ vectors).max(0)
    return int((nearest < epsilon).sum())
