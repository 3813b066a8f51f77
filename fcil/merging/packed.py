"""Symmetric matrices as their upper halves, row by row: the form in which Gram matrices travel and are summed.

At 3,072 inputs a half is 19 MB in float32 and the whole matrix 75 MB in float64: sums, products and diagonals are taken
of halves themselves.
"""

import math
from functools import cache

import numpy as np

from fcil.errors import MergeError

__all__ = ["BLOCK", "diagonal", "is_half", "shrunk", "side", "times", "upper", "whole"]

BLOCK = 64
"""Rows that are unpacked at a time: few enough to stay in a processor's cache."""


def is_half(a: np.ndarray) -> bool:
    """Whether an array has the shape of a half."""
    n = math.isqrt(2 * a.size)
    return a.ndim == 1 and n * (n + 1) // 2 == a.size


def side(half: np.ndarray) -> int:
    """Rows of the (n, n) matrix with n (n + 1) / 2 entries in its half."""
    if not is_half(half):
        raise MergeError(f"{half.shape} numbers are not half of a symmetric matrix")
    return math.isqrt(2 * half.size)


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


@cache
def _strips(n: int) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """The upper triangle in strips: rows, where they stand in the half, and their entries, (rows, n - first row).

    One assignment through such a mask is twice as fast as one for each row.
    """
    strips: list[tuple[slice, slice, np.ndarray]] = []
    begin = 0
    for first in range(0, n, BLOCK):
        entries = np.triu(np.ones((min(BLOCK, n - first), n - first), bool))
        end = begin + int(entries.sum())
        strips.append((slice(first, first + len(entries)), slice(begin, end), entries))
        begin = end
    return tuple(strips)


def upper(half: np.ndarray) -> np.ndarray:
    """(n, n) in float64 with the half in its upper triangle, zeros below."""
    n = side(half)
    matrix = np.zeros((n, n))
    for rows, place, entries in _strips(n):
        matrix[rows, rows.start :][entries] = half[place]
    return matrix


def times(left: np.ndarray, half: np.ndarray) -> np.ndarray:
    """(m, n) times the symmetric (n, n) matrix: (m, n) in float64.

    Raises:
        MergeError: the sizes do not fit.
    """
    n = side(half)
    if left.shape[1] != n:
        raise MergeError(f"{left.shape} and half of a symmetric matrix of {n} columns cannot be multiplied")
    if n <= BLOCK:
        return np.asarray(left.astype(np.float64, copy=False) @ whole(half))
    columns, space = left.T.astype(np.float64, order="C"), np.empty(BLOCK * n)
    out = columns * -diagonal(half).astype(np.float64)[:, None]  # the diagonal is in both products
    for rows, place, entries in _strips(n):
        strip = space[: entries.size].reshape(entries.shape)
        strip[:, : len(strip)] = 0
        strip[entries] = half[place]
        out[rows.start :] += strip.T @ columns[rows]
        out[rows] += strip @ columns[rows.start :]
    return np.ascontiguousarray(out.T)


@cache
def _places(n: int) -> np.ndarray:
    """(n, n): where entry (i, j) stands in the half."""
    i, j = np.indices((n, n))
    low, high = np.minimum(i, j), np.maximum(i, j)
    return np.asarray(low * n - low * (low - 1) // 2 + high - low)


def whole(half: np.ndarray) -> np.ndarray:
    """The matrix of a half, or those of a stack of small ones, (..., n (n + 1) / 2): (..., n, n) in float64."""
    n = side(half.reshape(-1, half.shape[-1])[0])
    if half.ndim == 1 and n > BLOCK:
        matrix = upper(half)
        matrix += np.triu(matrix, 1).T
        return matrix
    return np.asarray(half[..., _places(n)], np.float64)
