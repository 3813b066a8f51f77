"""EMR-Merging (Huang et al., arXiv 2405.17461): one elected change for all tasks, and of each task one bit an entry.

Elect:    tau = sign(sum_t tau_t) * max over the tasks of that sign of |tau_t|
Mask:     M_t = 1 where tau_t tau > 0
Rescale:  lambda_t = sum |tau_t| / sum |M_t tau|, over all entries of all layers

tau is a merge of its own. Whoever knows a sample's task, or guesses it, has lambda_t M_t tau as that task's change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.merging.lowrank import LowRank, same_shape
from fcil.merging.sparse import entries

__all__ = ["Elected", "elect", "rescalers", "restored"]


@dataclass(frozen=True)
class Elected:
    """A layer's elected change, and what tells T tasks apart."""

    change: np.ndarray
    """(out, in): tau."""
    masks: np.ndarray
    """(T, ceil(out in / 8)) uint8: the bits of M_t, row by row."""
    own: np.ndarray
    """(T,): sum |tau_t|."""
    kept: np.ndarray
    """(T,): sum |M_t tau|."""


def elect(changes: Sequence[LowRank], weights: Sequence[float] | None = None) -> Elected:
    """Elect a layer's change and record where each task agrees with it.

    Where the changes cancel exactly no sign is elected and tau is zero.

    Args:
        weights: of the changes in the vote for a sign; magnitudes are taken as they are. 1 each unless given.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    votes = np.ones(len(changes)) if weights is None else np.asarray(weights, np.float64)
    merged = np.empty(changes[0].shape)
    bits, own, kept = [], np.zeros(len(changes)), np.zeros(len(changes))
    for rows, each in entries(changes):
        sign = np.sign(np.tensordot(votes, each, 1))
        merged[rows] = tau = np.where(sign > 0, each.max(0), np.where(sign < 0, each.min(0), 0.0))
        agrees = each * sign > 0
        bits.append(np.packbits(agrees.reshape(len(changes), -1), axis=1))
        own += np.abs(each).sum((1, 2))
        kept += (agrees * np.abs(tau)).sum((1, 2))
    return Elected(merged, np.concatenate(bits, 1), own, kept)


def rescalers(own: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(T,): lambda_t from the sums (T,) over all layers; 0 for a task that agrees with tau nowhere."""
    return np.asarray(np.divide(own, kept, out=np.zeros_like(own), where=kept > 0))


def restored(change: np.ndarray, mask: np.ndarray, rescaler: float) -> np.ndarray:
    """A task's change of a layer, lambda_t M_t tau, (out, in) in the type of `change`."""
    bits = np.unpackbits(mask, count=change.size).reshape(change.shape)
    return np.asarray(change * bits * change.dtype.type(rescaler))
