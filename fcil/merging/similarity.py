"""What changes of weights tell before anything is evaluated: how akin they are, their spectra, their intruders.

All of it is unchanged when a pair (B, A) is written as (B R, R^-1 A): it depends on the products only.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fcil.errors import MergeError
from fcil.merging.lowrank import Change, LowRank, dense, inner, product_svd

__all__ = ["cosines", "features", "grams", "intruders", "kinships", "left_vectors", "spectra"]

Changes = Mapping[str, LowRank]
"""Layer -> change of its weight."""


def grams(many: Sequence[Changes]) -> dict[str, np.ndarray]:
    """Layer -> (n, n) inner products <B_i A_i, B_j A_j> of n models' changes, from factors alone.

    Raises:
        MergeError: no models, or layers or shapes that differ.
    """
    if not many or any(changes.keys() != many[0].keys() for changes in many):
        raise MergeError("kinship needs one model at least, and the same layers in all of them")
    n, found = len(many), {}
    for layer in many[0]:
        gram = np.empty((n, n))
        for i in range(n):
            for j in range(i + 1):
                gram[i, j] = gram[j, i] = inner(many[i][layer], many[j][layer])
        found[layer] = gram
    return found


def cosines(gram: np.ndarray) -> np.ndarray:
    """(n, n) inner products -> cosines; 0 to and from a model that did not change, its own included."""
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0))
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.asarray(np.clip(gram * np.outer(inverse, inverse), -1, 1))


def kinships(many: Sequence[Changes]) -> np.ndarray:
    """(n, n) cosines of the angles between n models' changes, all layers taken as one vector.

    Model Kinship, Hu et al., EMNLP Findings 2025, arXiv 2410.12613; with its sign, which their code loses.
    """
    return cosines(np.sum(list(grams(many).values()), 0))


def spectra(changes: Mapping[str, Change]) -> dict[str, np.ndarray]:
    """Layer -> singular values of its change, falling; those that are zero by rounding are left out."""
    return {layer: product_svd(change)[1] for layer, change in changes.items()}


def features(changes: Mapping[str, Change], length: int) -> np.ndarray:
    """(layers x length,) the `length` largest singular values of every layer, zeros where there are fewer.

    The features of "Learning on LoRAs" (Putterman et al., arXiv 2410.04207) that no change of basis can hide.
    """
    found = [values[:length] for values in spectra(changes).values()]
    return np.concatenate([np.pad(values, (0, length - len(values))) for values in found])


def left_vectors(weight: np.ndarray, top: int | None = None) -> np.ndarray:
    """(out, k) left singular vectors, those of the `top` largest singular values or all min(out, in)."""
    if top is None or weight.shape[0] <= top:
        return np.asarray(np.linalg.svd(weight, full_matrices=False)[0])[:, :top]
    wide = weight.shape[0] <= weight.shape[1]
    small = weight @ weight.T if wide else weight.T @ weight
    vectors = np.linalg.eigh(small)[1][:, ::-1][:, :top]  # a third of an SVD's time, and exact enough at the top
    if wide:
        return np.asarray(vectors)
    u = weight @ vectors
    return np.asarray(u / np.maximum(np.linalg.norm(u, axis=0), np.finfo(float).tiny))


def intruders(weight: np.ndarray, change: Change, known: np.ndarray, epsilon: float = 0.5, top: int = 10) -> int:
    """Intruder dimensions: how many of the `top` left singular vectors of W0 + change are unlike all of W0's.

    Shuttleworth et al., "LoRA vs full fine-tuning: an illusion of equivalence", arXiv 2410.21228.

    Args:
        weight: (out, in) W0.
        known: `left_vectors(W0)`, taken once.
        epsilon: a vector is an intruder where no cosine with one of W0's, up to sign, reaches it.
    """
    found = left_vectors(weight.astype(np.float64) + dense(change), top)
    nearest = np.abs(known.astype(np.float64).T @ found).max(0)
    return int((nearest < epsilon).sum())
