"""Maps of the network's features z to the features phi that are summed: folded, normalised, made random, or clipped.

What is random is drawn from the run's seed by whoever needs it, the same in every process, and never travels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fcil.seeding import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Phi = Callable[[Tensor], Tensor]

__all__ = ["FeatureMap", "fold_table", "folded", "projection"]


@lru_cache(maxsize=2)
def projection(seed: int, size: int, width: int) -> np.ndarray:
    """Draw R ~ N(0, 1), (size, width) float32: the same in every process, so it never travels."""
    matrix = generator(seed, "random features").standard_normal((size, width)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=4)
def fold_table(seed: int, size: int, parts: tuple[int, ...]) -> np.ndarray:
    """Draw a random linear map of z to phi that adds up entries of z with random signs, each entry in one place.

    Every part of z, one after the other, is folded into `size` numbers of its own, each with k slots for entries of its
    part; where these do not divide evenly, the slots that stay empty are random too. The rows are orthogonal, and the
    map is a signed permutation where a part has `size` entries. E[(P x) . (P y)] = x . y, with variance
    p (|x|^2 |y|^2 + (x . y)^2 - 2 sum_i x_i^2 y_i^2), p = (k - 1) / (k size - 1) <= 1 / size, k = ceil(part / size).
    Feature hashing (Weinberger et al., arXiv 0902.2206) with places of equal size.

    Args:
        size: numbers for each part.
        parts: lengths of the parts.

    Returns:
        (size * parts, k) float32, k the most entries in a place: 1 + the position in z of each entry, with its sign,
        and 0 for none. Exact in float32 up to 16.7 million entries.
    """
    rng = generator(seed, "fold")
    longest = max(-(-part // size) for part in parts)
    table = np.zeros((len(parts), size, longest), np.float32)
    for i, part in enumerate(parts):
        per_place = -(-part // size)
        places = rng.permutation(size * per_place)[:part]
        entries = np.zeros(size * per_place, np.float32)
        entries[places] = (1 + sum(parts[:i]) + np.arange(part)) * rng.choice((-1, 1), part)
        table[i, :, :per_place] = entries.reshape(size, per_place)
    flat = table.reshape(-1, longest)
    flat.setflags(write=False)
    return flat


def folded(z: Tensor, table: Tensor) -> Tensor:
    """Fold features by a table of `fold_table`: (n, width) -> (n, rows of the table), summed in float64."""
    import torch
    from torch.nn import functional as F

    entries = F.pad(z, (1, 0))[:, table.abs().flatten().long()] * table.sign().flatten()
    return entries.view(len(z), *table.shape).sum(2, dtype=torch.float64)


@dataclass(frozen=True)
class FeatureMap:
    """Maps the features z of the network to phi: z itself, or z folded, divided by its norm, relu(R z), and clipped."""

    normalised: bool = False
    random: int = 0
    """M, the number of random features relu(R z); 0 for none."""
    seed: int = 0
    project: int = 0
    """Fold z into so many numbers where it has more; 0 for never."""
    parts: tuple[int, ...] = ()
    """Relative lengths of the parts of z that are folded apart, into `project` numbers each; empty for one part."""
    clip: float = 0.0
    """Scale phi down to this norm where it is longer; 0 for never."""

    def folded_width(self, width: int) -> int:
        """Length of z, of `width` numbers, once it is folded."""
        if self.parts:
            return self.project * len(self.parts)
        return min(width, self.project) if self.project else width

    def size(self, width: int) -> int:
        """M, the length of phi for features of length `width`."""
        return self.random or self.folded_width(width)

    def table(self, width: int) -> np.ndarray | None:
        """The fold of features of length `width`; None where they stay as they are."""
        if self.parts:
            unit = width // sum(self.parts)
            return fold_table(self.seed, self.project, tuple(unit * part for part in self.parts))
        return fold_table(self.seed, self.project, (width,)) if self.folded_width(width) < width else None

    def matrix(self, width: int) -> np.ndarray | None:
        """R, (M, length of the folded z), for features of length `width`; None for none."""
        return projection(self.seed, self.random, self.folded_width(width)) if self.random else None

    def apply(self, features: Tensor, matrix: Tensor | None = None, table: Tensor | None = None) -> Tensor:
        """Map z (n, width) to phi (n, M) in float64.

        Args:
            matrix: R, or None or without rows for none.
            table: the fold, or None for none.
        """
        import torch

        x = features.double() if table is None else folded(features, table)
        if self.normalised:
            x = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        x = x if matrix is None or not len(matrix) else (x @ matrix.double().T).relu_()
        if self.clip:
            x = x * (self.clip / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(1)
        return x

    def on(self, device: torch.device, width: int) -> Phi:
        """Give `apply` as a function of features of length `width` alone, with what is random on the device."""
        import torch

        matrix, table = self.matrix(width), self.table(width)
        r = None if matrix is None else torch.tensor(matrix).double().to(device)
        fold = None if table is None else torch.tensor(table).to(device)
        return lambda features: self.apply(features, r, fold)
