"""Find the exact k-th largest magnitude of a vector that is too long to hold, in a few passes over blocks of it."""

from collections.abc import Callable, Iterable

import numpy as np

__all__ = ["kth_largest"]

_BITS = 16


def _bits(block: np.ndarray) -> np.ndarray:
    """The magnitudes' float64 bits as integers, whose order is the same."""
    return np.asarray(np.abs(block, dtype=np.float64).reshape(-1).view(np.int64))


def _counts(blocks: Iterable[np.ndarray], low: int, shift: int) -> np.ndarray:
    """Count the magnitudes in each of 2^16 bins of width 2^shift, from `low` on."""
    counts = np.zeros(1 << _BITS, np.int64)
    for block in blocks:
        bins = (_bits(block) - low) >> shift
        if low or shift + _BITS < 63:  # the first pass has nothing outside its bins
            bins = bins[(bins >= 0) & (bins < len(counts))]
        in_block = np.bincount(bins)
        counts[: len(in_block)] += in_block
    return counts


def _within(blocks: Iterable[np.ndarray], low: int, shift: int) -> np.ndarray:
    """Collect the bits of the magnitudes in one bin."""
    parts = [bits[(bits >= low) & (bits < low + (1 << shift))] for bits in map(_bits, blocks)]
    return np.concatenate(parts)


def kth_largest(blocks: Callable[[], Iterable[np.ndarray]], k: int, limit: int) -> float:
    """The k-th largest magnitude, exactly; every call of `blocks` yields the same finite blocks again.

    >>> kth_largest(lambda: [np.array([1.0, -7.0]), np.array([3.0])], k=2, limit=3)
    3.0

    Each pass counts the magnitudes by 16 more of their bits, until the bin of the k-th holds at most `limit`: these are
    collected and partitioned. Two passes do unless `limit` is small or many magnitudes are equal.

    Args:
        k: from 1 to the number of entries.
        limit: number of magnitudes that may be collected; twice as many numbers are held for a moment.
    """
    low, rank = 0, k
    for shift in range(64 - _BITS, -1, -_BITS):
        counts = _counts(blocks(), low, shift)
        at_least = counts[::-1].cumsum()[::-1]
        place = int(np.flatnonzero(at_least >= rank)[-1])
        rank -= int(at_least[place] - counts[place])
        low += place << shift
        if shift and counts[place] <= limit:
            candidates = _within(blocks(), low, shift)
            candidates.partition(len(candidates) - rank)
            low = int(candidates[len(candidates) - rank])
            break
    return float(np.int64(low).view(np.float64))
