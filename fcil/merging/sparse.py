"""MagMax and Consensus TA, merges that decide entry by entry, so that their results are not of low rank.

The entries of all changes are formed a few rows at a time; beside the factors only the result, (out, in), is held.
`weights` multiply the changes, 1 each unless given. Literal transcription: `tests/reference_spectral.py`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from fcil.merging.lowrank import LowRank, same_shape

__all__ = ["ROWS", "consensus_ta", "mag_max", "row_blocks"]

ROWS = 16
"""Rows that are formed at a time. A multiple of 8, so that bits of rows can be packed piece by piece."""


def row_blocks(changes: Sequence[LowRank]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of rows with the entries of all T changes there, (T, rows, in) in float64, until all rows are done.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    changes = [change.in_float64() for change in changes]
    for begin in range(0, changes[0].shape[0], ROWS):
        rows = slice(begin, begin + ROWS)
        yield rows, np.stack([change.rows(begin, begin + ROWS) for change in changes])


def mag_max(changes: Sequence[LowRank]) -> np.ndarray:
    """Take every entry from the change where its magnitude is largest (Marczak et al., arXiv 2407.06322).

    Of two opposite entries that are equally large the positive one is taken, so that the order does not matter.

    >>> mag_max([LowRank(np.eye(2), np.array([[1.0, -5], [0, 2]])), LowRank(np.eye(2), np.array([[3.0, 4], [0, -2]]))])
    array([[ 3., -5.],
           [ 0.,  2.]])

    Returns:
        (out, in).

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    merged = np.empty(changes[0].shape)
    for rows, block in row_blocks(changes):
        high, low = block.max(0), block.min(0)
        merged[rows] = np.where(high >= -low, high, low)
    return merged


def consensus_ta(
    changes: Sequence[LowRank], weights: Sequence[float] | None = None, threshold: float = 0.4, agree: int = 2
) -> np.ndarray:
    """Sum the changes where enough tasks need the entry, else zero (Consensus TA, Wang et al., arXiv 2405.07813).

    Task t needs an entry where |tau_t| >= threshold |sum_s tau_s - tau_t|: its change is large against the others'.

    Args:
        threshold: the paper's lambda; the larger, the fewer entries a task needs.
        agree: number of tasks that must need an entry, the paper's k: 2 removes what one task or none needs, 0 nothing.

    Returns:
        (out, in).

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    factors = np.ones(len(changes)) if weights is None else np.asarray(weights, np.float64)
    merged = np.empty(changes[0].shape)
    for rows, block in row_blocks(changes):
        block *= factors[:, None, None]
        total = block.sum(0)
        needed = np.abs(block) >= threshold * np.abs(total - block)
        merged[rows] = np.where(needed.sum(0) >= agree, total, 0.0)
    return merged
