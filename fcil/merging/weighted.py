"""Fisher averaging and RegMean, merges that weight entries or directions of changes by their effect on the loss.

Such merges solve  min over W of  sum_i tr((W - W_i)^T C_i (W - W_i)),  the maximum of a product of Gaussians around
the models, and differ in the precision C_i: a Fisher diagonal (`fisher_mean`), the Gram of the inputs (`gram_mean`), or
the Kronecker product of gradient and input Grams (`fcil.merging.mats`). Literal transcriptions: `fisher_mean` in
`tests/reference_peers.py`, `match` in `tests/reference.py`.
"""

from collections.abc import Sequence

import numpy as np

from fcil.arrays import added
from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.lowrank import Change, Dense, LowRank, dense
from fcil.merging.response_matching import merge_tasks

__all__ = ["fisher_mean", "gram_mean"]


def fisher_mean(
    changes: Sequence[Change], fishers: Sequence[np.ndarray], weights: Sequence[float], floor: float = 1e-6
) -> np.ndarray:
    """Average changes entry by entry by their Fisher (Matena and Raffel, arXiv 2111.09832).

    sum_i (F_i + w_i e) W_i / sum_i (F_i + w_i e)

    Args:
        changes: (out, in) each.
        fishers: Fisher diagonals, (out, in) each, sums over samples, not negative; a common factor cancels.
        weights: shares that sum to one; they decide where every Fisher is zero.
        floor: e, as a share of the mean entry of sum_i F_i.

    Returns:
        (out, in) in float64.

    Raises:
        MergeError: there is nothing to merge, shapes differ, or a Fisher is negative or not finite.
    """
    if not changes or not len(changes) == len(fishers) == len(weights):
        raise MergeError(f"a Fisher mean needs a Fisher for each model; got {len(changes)}, {len(fishers)}")
    for i, (change, fisher) in enumerate(zip(changes, fishers, strict=True)):
        if not change.shape == fisher.shape == changes[0].shape:
            raise MergeError(f"model {i}: {change.shape} and Fisher {fisher.shape} do not fit {changes[0].shape}")
        if not np.isfinite(fisher).all() or (fisher < 0).any():
            raise MergeError(f"model {i}: a Fisher diagonal must be finite and not negative")
    mean = float(np.mean([fisher.mean(dtype=np.float64) for fisher in fishers])) * len(fishers)
    least = floor * mean if mean else 1.0
    top, bottom = np.zeros(changes[0].shape), np.zeros(changes[0].shape)
    for change, fisher, weight in zip(changes, fishers, weights, strict=True):
        precision = fisher.astype(np.float64) + weight * least
        bottom += precision
        top += np.multiply(precision, dense(change), out=precision)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def gram_mean(changes: Sequence[LowRank], grams: Sequence[np.ndarray], shrink: float = 1.0) -> LowRank:
    """RegMean of low-rank changes, (sum_i B_i A_i G_i)(sum_i G_i)^+, in factors (Jin et al., arXiv 2212.09849).

    Args:
        changes: (out, in) each.
        grams: sums of x x^T over the layer's inputs: all as upper halves, (in (in + 1) / 2,), or as diagonals, (in,).
        shrink: factor of the off-diagonal entries of halves.

    Returns:
        (out, R) and (R, in), R the sum of the ranks.

    Raises:
        MergeError: there is nothing to merge, or sizes do not fit.
    """
    if not changes or len(changes) != len(grams):
        raise MergeError(f"RegMean needs a Gram for each model and at least one; got {len(changes)}, {len(grams)}")
    width = changes[0].shape[1]
    whole = width * (width + 1) // 2
    for i, gram in enumerate(grams):
        if gram.shape != grams[0].shape or gram.size not in (width, whole):
            raise MergeError(f"model {i}: a Gram of {gram.shape} numbers does not fit {width} inputs")
    pairs = [(change.b, change.a) for change in changes]
    if grams[0].size == width:
        return _compact(LowRank(*merge_tasks(pairs, grams)), changes)
    halves = [packed.shrunk(gram, shrink) for gram in grams]
    energies = [packed.diagonal(gram) for gram in halves]
    responses = [packed.times(change.a, gram) for change, gram in zip(changes, halves, strict=True)]
    return _compact(LowRank(*merge_tasks(pairs, energies, responses, added(halves))), changes)


def _compact(merged: LowRank, changes: Sequence[LowRank]) -> LowRank:
    """Sum the blocks [I | I | ...] [D_1 ; D_2 ; ...] of dense changes; others stay in factors."""
    if not all(isinstance(change, Dense) for change in changes):
        return merged
    return Dense(merged.a.reshape(len(changes), *changes[0].shape).sum(0))
