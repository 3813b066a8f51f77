"""Compute with symmetric matrices packed as upper halves, row by row, the form in which Grams travel and are summed.

At 3,072 inputs a half is 19 MB in float32 and the whole matrix 75 MB in float64: sums, products and diagonals are taken
of halves, without unpacking them.
"""

import math
from functools import cache

import numpy as np

from fcil.errors import MergeError

__all__ = ["BLOCK", "diagonal", "is_half", "less_outer", "shrunk", "side", "times", "upper", "whole"]

BLOCK = 64
"""Number of rows that are unpacked at a time: few enough to stay in a processor's cache."""


def is_half(a: np.ndarray) -> bool:
    """Tell whether an array has the shape of a half: one axis of n (n + 1) / 2 entries."""
    n = math.isqrt(2 * a.size)
    return a.ndim == 1 and n * (n + 1) // 2 == a.size


def side(half: np.ndarray) -> int:
    """The side n of the matrix, from the n (n + 1) / 2 entries of its half."""
    if not is_half(half):
        raise MergeError(f"{half.shape} numbers are not half of a symmetric matrix")
    return math.isqrt(2 * half.size)


def diagonal(half: np.ndarray) -> np.ndarray:
    """The diagonal of the matrix, (n,).

    >>> diagonal(np.array([1, 2, 3, 4, 5, 6])).tolist()
    [1, 4, 6]
    """
    i = np.arange(side(half))
    return half[i * len(i) - i * (i - 1) // 2]


def shrunk(half: np.ndarray, amount: float) -> np.ndarray:
    """Multiply the off-diagonal entries of a half by `amount`: 1 leaves it as it is, 0 leaves the diagonal only."""
    i, n = np.arange(side(half)), side(half)
    out = half * half.dtype.type(amount)
    out[i * n - i * (i - 1) // 2] = diagonal(half)
    return np.asarray(out)


@cache
def _strips(n: int) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """Cut the upper triangle into strips: rows, their slice of the half, and a mask of entries, (rows, n - first row).

    An assignment through such a mask is twice as fast as one for each row.
    """
    strips: list[tuple[slice, slice, np.ndarray]] = []
    begin = 0
    for first in range(0, n, BLOCK):
        entries = np.triu(np.ones((min(BLOCK, n - first), n - first), bool))
        end = begin + int(entries.sum())
        strips.append((slice(first, first + len(entries)), slice(begin, end), entries))
        begin = end
    return tuple(strips)


def upper(half: np.ndarray, space: np.ndarray | None = None) -> np.ndarray:
    """Unpack a half into the upper triangle of an (n, n) float64 matrix, with zeros below.

    Args:
        space: a matrix of that size to use, with zeros below its diagonal; a new one by default.
    """
    n = side(half)
    matrix = np.zeros((n, n)) if space is None else space
    for rows, place, entries in _strips(n):
        matrix[rows, rows.start :][entries] = half[place]
    return matrix


def times(left: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Multiply (m, n) by the symmetric (n, n) matrix of a half: (m, n) in float64.

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
    """The index in the half of every entry (i, j), (n, n)."""
    i, j = np.indices((n, n))
    low, high = np.minimum(i, j), np.maximum(i, j)
    return np.asarray(low * n - low * (low - 1) // 2 + high - low)


def whole(half: np.ndarray) -> np.ndarray:
    """Unpack a half, or a stack of small ones, (..., n (n + 1) / 2), into whole matrices, (..., n, n) float64."""
    n = side(half.reshape(-1, half.shape[-1])[0])
    if half.ndim == 1 and n > BLOCK:
        matrix = upper(half)
        matrix += np.triu(matrix, 1).T
        return matrix
    return np.asarray(half[..., _places(n)], np.float64)


def less_outer(half: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Subtract the outer products of rows, (m, n), from a half: G - sum r r^T as a half, in float64."""
    out = half.astype(np.float64)
    for strip, place, entries in _strips(side(half)):
        out[place] -= (rows[:, strip].T @ rows[:, strip.start :])[entries]
    return out
