"""The vocabulary of named arrays, in which merges are written.

An `Arrays` maps a name (`blocks.0.attn.qkv.lora_A`) to a NumPy array and is never changed in place. Weights travel and
rest in float32; sums over clients run in float64 and are cast back once.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from fcil.errors import MergeError

__all__ = [
    "Arrays", "State", "added", "as_float32", "digest", "grouped", "names_matching", "nbytes",
    "same_names", "shapes", "symmetric_half", "total", "ungrouped", "weighted_mean", "weighted_total",
]  # fmt: skip

Arrays = Mapping[str, np.ndarray]
"""Array name -> array."""
State = Mapping[str, Arrays]
"""What a server remembers: group name -> arrays. Groups and names contain no colon."""
EMPTY = ":"
"""Stands for the name in a flat table (`ungrouped`) where a group has no arrays."""


def as_float32(arrays: Arrays) -> dict[str, np.ndarray]:
    """Every array in float32, the type of the wire and of storage."""
    return {name: np.asarray(a, np.float32) for name, a in arrays.items()}


def names_matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match one of the glob patterns, in their own order."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: a.shape for name, a in arrays.items()}


def same_names(many: Sequence[Arrays]) -> list[str]:
    """The names that all have in common, sorted.

    Raises:
        MergeError: nothing was given, or names or shapes differ.
    """
    if not many:
        raise MergeError("nothing to merge: the list of clients is empty")
    first = {name: a.shape for name, a in many[0].items()}
    for position, arrays in enumerate(many[1:], 1):
        if {name: a.shape for name, a in arrays.items()} != first:
            odd = sorted(n for n in {*first, *arrays} if n not in arrays or first.get(n) != arrays[n].shape)
            raise MergeError(f"number {position} of the updates differs from number 0 in {', '.join(odd[:3])}")
    return sorted(first)


def added(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The sum in float64 of arrays of one shape, at least one, taken one at a time."""
    each = iter(arrays)
    acc = next(each).astype(np.float64)
    for a in each:
        acc += a
    return acc


def total(many: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Sums over clients, in float64, in the order given."""
    return {name: added(arrays[name] for arrays in many) for name in same_names(many)}


def weighted_total(many: Sequence[Arrays], weights: Sequence[float], origin: Arrays) -> dict[str, np.ndarray]:
    """sum_i w_i (x_i - origin) in float64: with the sum of the weights, all that a weighted mean needs.

    Taken from what everybody started from, so that a mean of identical updates is that update in float32.
    """
    same_names([*many, {name: origin[name] for name in many[0]} if many else {}])
    out = {name: np.zeros(a.shape) for name, a in many[0].items()}
    for arrays, weight in zip(many, weights, strict=True):
        for name in out if weight else ():  # a client of weight zero has no influence, whatever it holds
            out[name] += weight * np.subtract(arrays[name], origin[name], dtype=np.float64)
    return out


def weighted_mean(many: Sequence[Arrays], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """sum_i w_i x_i / sum_i w_i, summed in float64, returned in the type of the first.

    The mean is taken of differences to the first update, so that identical updates come out bit for bit.

    Raises:
        MergeError: no updates, names or shapes that differ, or weights that are negative or sum to zero.
    """
    w = np.asarray(weights, np.float64)
    if len(many) != len(w) or (w < 0).any() or not np.isfinite(w).all() or w.sum() <= 0:
        raise MergeError(f"weights must be finite, not negative and not all zero, one per update; got {list(weights)}")
    first = many[int(np.flatnonzero(w)[0])]
    change = weighted_total(many, list(w), first)
    return {
        name: (first[name].astype(np.float64) + change[name] / w.sum()).astype(first[name].dtype) for name in change
    }


def symmetric_half(matrix: np.ndarray) -> np.ndarray:
    """(n, n) symmetric -> its n(n+1)/2 upper entries, row by row: what travels of a Gram matrix."""
    n, begin = len(matrix), 0
    half = np.empty(n * (n + 1) // 2, matrix.dtype)
    for i in range(n):
        half[begin : begin + n - i] = matrix[i, i:]
        begin += n - i
    return half


def nbytes(arrays: Arrays) -> int:
    """Bytes of payload."""
    return sum(a.nbytes for a in arrays.values())


def digest(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        sha.update(f"{name}|{a.dtype.str}|{a.shape}|".encode())
        sha.update(a.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def ungrouped(state: State) -> dict[str, np.ndarray]:
    """A state as one flat table, `group:name`, the form in which it is hashed and stored.

    A group without arrays has the place `group::`, with an array of no values: no array can have that name, since names
    contain no colon.
    """
    return {
        f"{group}:{name}": a
        for group, arrays in state.items()
        for name, a in (arrays or {EMPTY: np.zeros(0, np.float32)}).items()
    }


def grouped(flat: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Undoes `ungrouped`."""
    state: dict[str, dict[str, np.ndarray]] = {}
    for key, a in flat.items():
        group, _, name = key.partition(":")
        state.setdefault(group, {}).update({} if name == EMPTY else {name: a})
    return state
