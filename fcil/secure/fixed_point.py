"""Numbers as integers modulo 2^128, in units of 2^-64: sums of them are exact, and the same in any order.

An array of float64 becomes (..., 2) uint64, the high and the low word. The range suits all sums of this project, so
that no scale has to be agreed on, which would tell how large somebody's numbers are.
"""

from collections.abc import Iterable

import numpy as np

from fcil.errors import MergeError

__all__ = ["CLIENTS", "LARGEST", "added", "decode", "encode", "error_bound", "negative"]

CLIENTS = 1 << 20
"""The most clients whose numbers may be added."""
LARGEST = 2.0**42
"""No number may be as large as this: CLIENTS of them stay below 2^62."""
UNIT = 2.0**-64


def error_bound(clients: int, total: np.ndarray) -> np.ndarray:
    """Bound how far `decode` of a sum of `clients` encoded numbers is from their true sum: K 2^-65 + 2^-51 |sum|.

    Half a unit for each number that is encoded, and the rounding of the sum to float64.
    """
    return np.asarray(clients * UNIT / 2 + 2.0**-51 * np.abs(total))


def encode(numbers: np.ndarray) -> np.ndarray:
    """Round float64 numbers to the nearest multiple of 2^-64, (...) -> (..., 2) uint64.

    Raises:
        MergeError: a number is not finite, or is LARGEST or larger.
    """
    size = np.abs(np.asarray(numbers, np.float64))
    if not (size < LARGEST).all():  # NaN too
        # how large is not said: the server reads it
        raise MergeError(f"secure sums take finite numbers below {LARGEST:.3g}; here some are larger, or not finite")
    whole = np.floor(size)
    # exact: what is left of a float64 has no more digits than the float64, and 2^64 is a power of two
    low = np.rint((size - whole) * 2.0**64).astype(np.uint64)
    out = np.stack([whole.astype(np.uint64), low], -1)
    return np.where((np.asarray(numbers) < 0)[..., None], negative(out), out)


def negative(words: np.ndarray) -> np.ndarray:
    """Negate encoded numbers modulo 2^128."""
    low = ~words[..., 1] + np.uint64(1)
    return np.stack([~words[..., 0] + (low == 0), low], -1).astype(np.uint64)


def added(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Sum one or more arrays of one shape modulo 2^128."""
    rest = iter(parts)
    total = next(rest).copy()
    for part in rest:
        low = total[..., 1] + part[..., 1]
        total[..., 0] += part[..., 0] + (low < part[..., 1])
        total[..., 1] = low
    return total


def decode(words: np.ndarray) -> np.ndarray:
    """Read words as signed numbers, (..., 2) uint64 -> (...) float64, rounded."""
    below = words[..., 0] >> np.uint64(63) == 1
    size = np.where(below[..., None], negative(words), words)
    numbers = size[..., 0].astype(np.float64) + size[..., 1].astype(np.float64) * UNIT
    return np.asarray(np.where(below, -numbers, numbers))
