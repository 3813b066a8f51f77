"""Packs named arrays into flat buffers, one per group and type, with an index of (group, name, type, shape).

Every array of a message costs Flower a round trip in deployment, so hundreds of small ones would be slow. What arrives
is not trusted: whatever does not fit is a ValueError.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord

from fcil.arrays import Arrays

__all__ = ["pack", "unpack"]

_MOST_AXES, _LONGEST_SIDE = 32, 1 << 31
"""Bounds on a shape in an index, so that the product of its sides is quickly known and fits NumPy."""


def pack(groups: Mapping[str, Arrays]) -> tuple[ArrayRecord, str]:
    """Groups of named arrays -> flat buffers `group.dtype`, and the index that undoes it."""
    buffers: dict[str, list[np.ndarray]] = {}
    index = []
    for group, arrays in groups.items():
        for name, a in arrays.items():
            if a.dtype.kind not in "fiub":
                raise TypeError(f"{group} {name}: arrays of type {a.dtype} do not travel")
            native = a.astype(a.dtype.newbyteorder("="), copy=False)
            buffers.setdefault(f"{group}.{a.dtype.name}", []).append(native.reshape(-1))
            index.append([group, name, a.dtype.name, list(a.shape)])
    flat = {key: Array(np.concatenate(parts)) for key, parts in buffers.items()}
    return ArrayRecord(flat), json.dumps(index, separators=(",", ":"))


def _entries(index: str) -> list[tuple[str, str, str, tuple[int, ...]]]:
    try:
        entries = [(str(g), str(n), str(d), tuple(shape)) for g, n, d, shape in json.loads(index)]
    except (ValueError, TypeError, RecursionError):
        raise ValueError("the index of the arrays cannot be read") from None
    for _, name, _, shape in entries:
        sides = all(type(side) is int and 0 <= side < _LONGEST_SIDE for side in shape)
        if not sides or len(shape) > _MOST_AXES:
            raise ValueError(f"{name[:80]}: {str(list(shape)[:8])[:80]} is not a shape")
    return entries


def _flat(key: str, array: Array) -> np.ndarray:
    """The values of a buffer, without a copy; no memory is taken for what its header only promises.

    NumPy's own reader is not asked: it takes memory for the shape in the header before it looks for the values, and
    opens archives of several arrays.
    """
    stream = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except Exception:  # whatever a damaged header makes NumPy raise
        raise ValueError(f"buffer {key[:80]}: holds no array") from None
    if len(shape) != 1 or dtype.name != key.rpartition(".")[2] or dtype.kind not in "fiub" or not dtype.isnative:
        raise ValueError(f"buffer {key[:80]}: holds {str(dtype.str)[:40]} of shape {str(shape)[:80]}")
    if (array.dtype, tuple(array.shape), array.stype) != (dtype.name, shape, "numpy.ndarray"):
        stated = f"{array.stype} of {array.dtype}, shape {tuple(array.shape)}"
        raise ValueError(
            f"buffer {key[:80]}: is said to be {stated[:80]}, holds {dtype.name} of shape {str(shape)[:80]}"
        )
    if len(array.data) - stream.tell() != shape[0] * dtype.itemsize:
        raise ValueError(
            f"buffer {key[:80]}: {len(array.data) - stream.tell()} bytes for {shape[0]} {dtype.name} values"
        )
    return np.frombuffer(array.data, dtype, offset=stream.tell())


def unpack(record: ArrayRecord, index: str, groups: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Undo `pack`: the arrays of each group, in their order.

    Raises:
        ValueError: index and buffers do not fit each other.
    """
    flat = {key: _flat(key, array) for key, array in record.items()}
    out: dict[str, dict[str, np.ndarray]] = {group: {} for group in groups}
    used = dict.fromkeys(flat, 0)
    for group, name, dtype, shape in _entries(index):
        key = f"{group}.{dtype}"
        begin, end = used.get(key, 0), used.get(key, 0) + math.prod(shape)
        if group not in out or name in out[group]:
            raise ValueError(f"{group[:80]} {name[:80]}: not expected, or twice in the index")
        if key not in flat or end > len(flat[key]):
            raise ValueError(f"{name[:80]}: buffer {key[:80]} ends before its {math.prod(shape)} values")
        # a copy, so that it lies in memory as if it had been made here
        try:
            out[group][name] = flat[key][begin:end].reshape(shape).copy()
        except (ValueError, OverflowError):  # no values, and sides that are too long together
            raise ValueError(f"{name[:80]}: {list(shape)[:8]} is not a shape") from None
        used[key] = end
    for key, values in flat.items():
        if used[key] != len(values):
            raise ValueError(f"buffer {key[:80]}: {len(values)} values, the index accounts for {used[key]}")
    return [out[group] for group in groups]
