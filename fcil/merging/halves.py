"""Symmetric matrices as their upper halves, row by row: the form in which Gram matrices travel and are summed.

At 3,072 inputs a half is 19 MB in float32 and the whole matrix 75 MB in float64; here the whole one is never made.
"""

from functools import cache

import numpy as np

from fcil.arrays import half_rows
from fcil.errors import MergeError

__all__ = ["BLOCK", "diagonal", "shrunk", "side", "times", "upper", "whole"]

BLOCK = 64
"""Rows that are unpacked at a time: few enough to stay in a processor's cache."""


def side(half: np.ndarray) -> int:
    """Rows of the (n, n) matrix with n (n + 1) / 2 entries in its half."""
    n = (int(np.sqrt(8 * half.size + 1)) - 1) // 2
    if half.ndim != 1 or n * (n + 1) // 2 != half.size:
        raise MergeError(f"{half.shape} numbers are not half of a symmetric matrix")
    return n


def diagonal(half: np.ndarray) -> np.ndarray:
    """(n,) entries (i, i)."""
    i = np.arange(side(half))
    return half[i * len(i) - i * (i - 1) // 2]


def shrunk(half: np.ndarray, amount: float) -> np.ndarray:
    """The half with its off-diagonal entries times `amount`: 1 leaves it, 0 leaves the diagonal only."""
    i, n = np.arange(side(half)), side(half)
    out = half * half.dtype.type(amount)
    out[i * n - i * (i - 1) // 2] = diagonal(half)
    return np.asarray(out)


def upper(half: np.ndarray) -> np.ndarray:
    """(n, n) in float64 with the half in its upper triangle; what is below is not to be read."""
    n = side(half)
    matrix = np.zeros((n, n))
    for i, row in enumerate(half_rows(half, n)):
        matrix[i, i:] = row
    return matrix


def times(left: np.ndarray, half: np.ndarray) -> np.ndarray:
    """(m, n) times the symmetric (n, n) matrix: (m, n) in float64.

    Raises:
        MergeError: the sizes do not fit.
    """
    n = side(half)
    if left.shape[1] != n:
        raise MergeError(f"{left.shape} and half of a symmetric matrix of {n} columns cannot be multiplied")
    left = left.astype(np.float64, copy=False)
    if n <= BLOCK:
        return np.asarray(left @ whole(half))
    out = np.zeros((len(left), n))
    rows = half_rows(half, n)
    for begin in range(0, n, BLOCK):
        count = min(BLOCK, n - begin)
        block = np.empty((count, n - begin))
        for k in range(count):
            block[k, k:] = next(rows)
        square = np.triu(block[:, :count])
        block[:, :count] = square + np.triu(square, 1).T
        out[:, begin : begin + count] += left[:, begin:] @ block.T
        out[:, begin + count :] += left[:, begin : begin + count] @ block[:, count:]
    return out


@cache
def _places(n: int) -> np.ndarray:
    """(n, n): where entry (i, j) stands in the half."""
    i, j = np.indices((n, n))
    low, high = np.minimum(i, j), np.maximum(i, j)
    return np.asarray(low * n - low * (low - 1) // 2 + high - low)


def whole(half: np.ndarray) -> np.ndarray:
    """The matrix of a small half, (n, n) in float64."""
    return np.asarray(half[_places(side(half))], np.float64)
