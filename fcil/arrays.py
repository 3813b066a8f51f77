"""Named NumPy arrays, and their sums and means over clients: the form in which weights travel and are merged.

An `Arrays` maps a name (`blocks.0.attn.qkv.lora_A`) to a NumPy array and is never changed in place. Weights travel and
rest in float32; sums over clients run in float64 and are cast back once.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np

from fcil.errors import MergeError

__all__ = [
    "Arrays", "State", "added", "as_float32", "digest", "grouped", "in_rows", "names_matching", "nbytes",
    "same_names", "shapes", "symmetric_half", "total", "ungrouped", "weighted_mean", "weighted_total",
]  # fmt: skip

Arrays = Mapping[str, np.ndarray]
"""Array name -> array."""
State = Mapping[str, Arrays]
"""The server's state: group name -> arrays. Groups and names contain no colon."""
BLOCK = 1 << 16
"""Numbers that are summed at a time, where an array has not more alone: some megabytes, which processors keep close."""
EMPTY = ":"
"""Stands for the name in a flat table (`ungrouped`) where a group has no arrays."""


def as_float32(arrays: Arrays) -> dict[str, np.ndarray]:
    """Convert every array to float32, the type in which arrays travel and are stored."""
    return {name: np.asarray(a, np.float32) for name, a in arrays.items()}


def in_rows(state: State) -> State:
    """The state with the rows of every array one after the other, as a checkpoint gives them back (C order).

    Products of transposed matrices round otherwise: without this a run that is resumed could end in other bits.
    """
    return {group: {name: np.asarray(a, order="C") for name, a in arrays.items()} for group, arrays in state.items()}


def names_matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match at least one of the glob patterns, in their own order.

    >>> names_matching(["norm.bias", "blocks.1.mlp.fc1", "blocks.0.attn.qkv"], ["blocks.*.qkv", "norm*"])
    ['norm.bias', 'blocks.0.attn.qkv']
    """
    return list(_matching(tuple(names), tuple(patterns)))


@lru_cache(maxsize=1024)
def _matching(names: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Match once for all clients of a phase, who have the same names."""
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Map the name of every array to its shape."""
    return {name: a.shape for name, a in arrays.items()}


def same_names(updates: Sequence[Arrays]) -> list[str]:
    """The array names that all updates share, sorted.

    Raises:
        MergeError: there are no updates, or their names or shapes differ.
    """
    if not updates:
        raise MergeError("nothing to merge: the list of clients is empty")
    first = {name: a.shape for name, a in updates[0].items()}
    for position, arrays in enumerate(updates[1:], 1):
        if {name: a.shape for name, a in arrays.items()} != first:
            differing = sorted(n for n in {*first, *arrays} if n not in arrays or first.get(n) != arrays[n].shape)
            raise MergeError(f"number {position} of the updates differs from number 0 in {', '.join(differing[:3])}")
    return sorted(first)


def added(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Sum one or more arrays of one shape in float64, taking them one at a time."""
    rest = iter(arrays)
    result = next(rest).astype(np.float64)
    for a in rest:
        result += a
    return result


def total(updates: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Sum updates over clients, name by name, in float64 and in the order given."""
    return {name: added(arrays[name] for arrays in updates) for name in same_names(updates)}


def weighted_total(updates: Sequence[Arrays], weights: Sequence[float], origin: Arrays) -> dict[str, np.ndarray]:
    """sum_i w_i (x_i - origin) of each array, in float64: with the sum of the weights, all that a weighted mean needs.

    `origin` is what all clients started from. Differences to it are summed, so that a mean of identical updates is that
    update in float32.
    """
    same_names([*updates, {name: origin[name] for name in updates[0]} if updates else {}])
    out: dict[str, np.ndarray] = {}
    for names in _blocks(updates[0] if updates else {}):
        begin = _end_to_end(origin, names).astype(np.float64)
        block, difference = np.zeros_like(begin), np.empty_like(begin)
        for arrays, weight in zip(updates, weights, strict=True):
            if weight:  # a client of weight zero has no influence, whatever it holds
                difference[:] = _end_to_end(arrays, names)
                difference -= begin
                difference *= weight
                block += difference
        ends = np.cumsum([updates[0][name].size for name in names])
        parts = zip(names, np.split(block, ends[:-1]), strict=True)
        out |= {name: part.reshape(updates[0][name].shape) for name, part in parts}
    return out


def _end_to_end(arrays: Arrays, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])


def _blocks(arrays: Arrays) -> Iterator[list[str]]:
    """Cut names into runs of neighbours with some BLOCK numbers: many small arrays cost no more than one then."""
    block: list[str] = []
    size = 0
    for name, a in arrays.items():
        if block and size + a.size > BLOCK:
            yield block
            block, size = [], 0
        block.append(name)
        size += a.size
    if block:
        yield block


def weighted_mean(updates: Sequence[Arrays], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """sum_i w_i x_i / sum_i w_i of each array, summed in float64, returned in the type of the first update.

    The mean is taken of differences to the first update, so that identical updates come out bit for bit.

    >>> mean = weighted_mean([{"bias": np.array([1.0, 0.0])}, {"bias": np.array([5.0, 4.0])}], weights=[3, 1])
    >>> mean["bias"].tolist()
    [2.0, 1.0]

    Raises:
        MergeError: there are no updates, their names or shapes differ, or weights are negative or sum to zero.
    """
    w = np.asarray(weights, np.float64)
    if len(updates) != len(w) or (w < 0).any() or not np.isfinite(w).all() or w.sum() <= 0:
        raise MergeError(f"weights must be finite, not negative and not all zero, one per update; got {list(weights)}")
    first = updates[int(np.flatnonzero(w)[0])]
    change = weighted_total(updates, list(w), first)
    return {
        name: (first[name].astype(np.float64) + change[name] / w.sum()).astype(first[name].dtype) for name in change
    }


def symmetric_half(matrix: np.ndarray) -> np.ndarray:
    """Pack a symmetric (n, n) matrix as its n(n+1)/2 upper entries, row by row: the form in which Gram matrices travel.

    >>> symmetric_half(np.array([[1, 2, 3], [2, 4, 5], [3, 5, 6]])).tolist()
    [1, 2, 3, 4, 5, 6]
    """
    n, begin = len(matrix), 0
    half = np.empty(n * (n + 1) // 2, matrix.dtype)
    for i in range(n):
        half[begin : begin + n - i] = matrix[i, i:]
        begin += n - i
    return half


def nbytes(arrays: Arrays) -> int:
    """Bytes that the values of all arrays take."""
    return sum(a.nbytes for a in arrays.values())


def digest(arrays: Arrays) -> str:
    """SHA-256 of the names, types, shapes and values of arrays, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        sha.update(f"{name}|{a.dtype.str}|{a.shape}|".encode())
        sha.update(a.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def ungrouped(state: State) -> dict[str, np.ndarray]:
    """Flatten a state into one table, `group:name` -> array, the form in which it is hashed and stored.

    >>> list(ungrouped({"module": {"a": np.zeros(1)}, "past": {}}))
    ['module:a', 'past::']

    A group without arrays has the place `group::`, with an array of no values: no array can have that name, since names
    contain no colon.
    """
    return {
        f"{group}:{name}": a
        for group, arrays in state.items()
        for name, a in (arrays or {EMPTY: np.zeros(0, np.float32)}).items()
    }


def grouped(flat: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Restore the state that `ungrouped` has flattened."""
    state: dict[str, dict[str, np.ndarray]] = {}
    for key, a in flat.items():
        group, _, name = key.partition(":")
        state.setdefault(group, {}).update({} if name == EMPTY else {name: a})
    return state
