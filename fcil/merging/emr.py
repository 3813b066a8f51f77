"""EMR-Merging (Huang et al., arXiv 2405.17461): one elected change for all tasks, and per task one bit per entry.

Elect:    tau = sign(sum_t tau_t) * max over the tasks of that sign of |tau_t|
Mask:     M_t = 1 where tau_t tau > 0
Rescale:  lambda_t = sum |tau_t| / sum |M_t tau|, over all entries of all layers

tau alone is a merge. Where a sample's task is known or guessed, lambda_t M_t tau is that task's change. Literal
transcription: `tests/reference_spectral.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.merging.lowrank import LowRank, same_shape
from fcil.merging.sparse import row_blocks

__all__ = ["Elected", "elect", "rescalers", "restored"]


@dataclass(frozen=True)
class Elected:
    """A layer's elected change, and the masks and sums that restore each of T tasks from it."""

    change: np.ndarray
    """(out, in): tau."""
    masks: np.ndarray
    """(T, ceil(out in / 8)) uint8: the bits of M_t, row by row."""
    task_l1: np.ndarray
    """(T,): sum |tau_t| over the layer."""
    masked_l1: np.ndarray
    """(T,): sum |M_t tau| over the layer."""


def elect(changes: Sequence[LowRank], weights: Sequence[float] | None = None) -> Elected:
    """Elect a layer's change and record where each task agrees with it.

    Where the changes cancel exactly no sign is elected and tau is zero.

    Args:
        weights: weights of the changes in the vote for a sign, not of magnitudes; 1 each unless given.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    votes = np.ones(len(changes)) if weights is None else np.asarray(weights, np.float64)
    merged = np.empty(changes[0].shape)
    bits, task_l1, masked_l1 = [], np.zeros(len(changes)), np.zeros(len(changes))
    for rows, block in row_blocks(changes):
        sign = np.sign(np.tensordot(votes, block, 1))
        merged[rows] = tau = np.where(sign > 0, block.max(0), np.where(sign < 0, block.min(0), 0.0))
        agrees = block * sign > 0
        bits.append(np.packbits(agrees.reshape(len(changes), -1), axis=1))
        task_l1 += np.abs(block).sum((1, 2))
        masked_l1 += (agrees * np.abs(tau)).sum((1, 2))
    return Elected(merged, np.concatenate(bits, 1), task_l1, masked_l1)


def rescalers(task_l1: np.ndarray, masked_l1: np.ndarray) -> np.ndarray:
    """Compute lambda_t, (T,), from the two sums, (T,), over all layers; 0 for a task that agrees with tau nowhere."""
    return np.asarray(np.divide(task_l1, masked_l1, out=np.zeros_like(task_l1), where=masked_l1 > 0))


def restored(change: np.ndarray, mask: np.ndarray, rescaler: float) -> np.ndarray:
    """Restore a task's change of a layer, lambda_t M_t tau, (out, in) in the type of `change`."""
    bits = np.unpackbits(mask, count=change.size).reshape(change.shape)
    return np.asarray(change * bits * change.dtype.type(rescaler))
