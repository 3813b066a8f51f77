"""Read IDX files, the format of MNIST and its relatives (LeCun et al., 1998)."""

import gzip
from pathlib import Path

import numpy as np

__all__ = ["read_idx"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, plain or gzipped, into an array of its own shape and type.

    Raises:
        ValueError: the magic number, the type or the length is not that of an IDX file; names the file.
    """
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, OSError) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise ValueError(f"{path}: not an IDX file (its first bytes are {raw[:4].hex(' ')})")
    head = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, head, 4))
    dtype = np.dtype(_TYPES[raw[2]])
    expected = head + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(raw) != expected:
        raise ValueError(f"{path}: {len(raw)} bytes where its header announces {expected}; fetch it again")
    return np.frombuffer(raw, dtype, offset=head).reshape(shape)
