"""Merges that decide entry by entry, and so leave low rank: MagMax and Consensus TA.

The entries of all changes are formed a few rows at a time; beside the factors only the result, (out, in), is held.
`weights` multiply the changes, 1 each unless given.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from fcil.merging.lowrank import LowRank, same_shape

__all__ = ["ROWS", "consensus_ta", "entries", "mag_max"]

ROWS = 16
"""Rows that are formed at a time. A multiple of 8, so that bits of rows can be packed piece by piece."""


def entries(changes: Sequence[LowRank]) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows and the entries of all changes there, (T, rows, in) in float64, until all rows have been.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    factors = [(change.b.astype(np.float64), change.a.astype(np.float64)) for change in changes]
    for begin in range(0, changes[0].shape[0], ROWS):
        rows = slice(begin, begin + ROWS)
        yield rows, np.stack([b[rows] @ a for b, a in factors])


def mag_max(changes: Sequence[LowRank]) -> np.ndarray:
    """Of every entry the change of largest magnitude (Marczak et al., arXiv 2407.06322).

    Of two that are opposite and equally large the positive one, so that no order matters.

    Returns:
        (out, in).

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    merged = np.empty(changes[0].shape)
    for rows, each in entries(changes):
        high, low = each.max(0), each.min(0)
        merged[rows] = np.where(high >= -low, high, low)
    return merged


def consensus_ta(
    changes: Sequence[LowRank], weights: Sequence[float] | None = None, threshold: float = 0.4, agree: int = 2
) -> np.ndarray:
    """The sum where enough tasks need it, else zero (Consensus TA, Wang et al., arXiv 2405.07813).

    Task t needs an entry where |tau_t| >= threshold |sum_s tau_s - tau_t|: its own change is large against the others'.

    Args:
        threshold: the paper's lambda; the larger, the fewer entries a task needs.
        agree: tasks that must need an entry, the paper's k: 2 removes what no task or only one needs, 0 nothing.

    Returns:
        (out, in).

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    factors = np.ones(len(changes)) if weights is None else np.asarray(weights, np.float64)
    merged = np.empty(changes[0].shape)
    for rows, each in entries(changes):
        each *= factors[:, None, None]
        total = each.sum(0)
        needed = np.abs(each) >= threshold * np.abs(total - each)
        merged[rows] = np.where(needed.sum(0) >= agree, total, 0.0)
    return merged
