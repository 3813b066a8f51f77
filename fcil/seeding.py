"""Derive random generators from a seed and a path of names: the only source of randomness.

Every random draw of a run, in whatever process it happens, comes from `generator(seed, *path)`, where the path says
what the draw is for, for example `("batches", task, round, client)`. No draw depends on what was drawn before it, on
the process, or on the order in which clients are served; that is what makes runs on one worker, on many, and resumed
ones end in the same bits.
"""

from __future__ import annotations

import hashlib
from operator import index
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["generator", "published_permutation", "torch_generator"]


def _words(seed: int, path: tuple[str | int, ...]) -> np.ndarray:
    """128 bits of the SHA-256 of seed and path, as four uint32 words. Types count in a path: `1` and `"1"` differ."""
    parts = [part if isinstance(part, str) else index(part) for part in path]  # NumPy's integers too
    text = "\x1f".join([f"seed:{int(seed)}", *(f"{type(part).__name__}:{part}" for part in parts)])
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4", 4).astype(np.uint32)


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for the draw that `path` names, the same in every process and on every machine.

    >>> first, again, other = (generator(0, "batches", client).random() for client in (3, 3, 4))
    >>> first == again, first == other
    (True, False)
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_words(seed, path))))


def published_permutation(seed: int, n: int) -> np.ndarray:
    """The permutation of 0..n-1 that public code draws from a seed alone: NumPy's RandomState(seed).permutation(n).

    It is what `np.random.seed(seed); np.random.permutation(n)` gives, and the same in all versions of NumPy.

    >>> published_permutation(1993, 100)[:5].tolist()
    [68, 56, 78, 8, 23]
    """
    return np.random.RandomState(seed).permutation(n)


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """A torch generator on the CPU for the draw that `path` names; see `generator`."""
    import torch  # slow to import, and settings are checked without it

    low, high, *_ = _words(seed, path).tolist()
    return torch.Generator().manual_seed((high << 31) ^ low)
