"""TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708) and DARE (Yu et al., ICML 2024, arXiv 2311.03099).

Both look at changes entry by entry, so the products B_i A_i have to be seen. They are made anew in every pass, some
rows at a time, and never held: beside the factors there is one dense layer, the result.

    trim    of expert i the round(top * d) largest of its d entries stay, counted over all layers together
    elect   gamma = sign(sum_i w_i x_i); where that is exactly zero, the sign that most entries have
    merge   the mean of the entries that have the elected sign, weighted by w_i, times lambda
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain

import numpy as np

from fcil.errors import MergeError
from fcil.merging.expert import Expert, layers, shares
from fcil.merging.kth_largest import kth_largest

__all__ = ["Entries", "Masks", "cut", "mean_of", "trim_elect_merge"]

Masks = Callable[[int, str], np.random.Generator]
"""Expert, layer -> the generator of its mask."""

_BLOCK = 1 << 15
"""Entries of an expert that are looked at together."""


@dataclass(frozen=True)
class Entries:
    """Experts' changes entry by entry; with `drop` DARE has gone over them: m x / (1 - p), m = 0 with probability p."""

    experts: Sequence[Expert]
    """Of the same layers and shapes."""
    drop: float = 0.0
    """p, from 0 to below 1."""
    masks: Masks | None = None
    """Needed where entries are dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1 or (self.drop and self.masks is None):
            raise MergeError(f"a drop rate must be from 0 to below 1, with masks to draw; got {self.drop:g}")

    @cached_property
    def layers(self) -> list[str]:
        """The layers that all experts have in common; raises MergeError as `expert.layers`."""
        return layers(self.experts)

    def shape(self, layer: str) -> tuple[int, int]:
        """(out, in)."""
        return self.experts[0].changes[layer].shape

    def blocks(self, i: int, layer: str) -> Iterator[np.ndarray]:
        """Rows of expert i's change of a layer, some at a time, the same whenever they are asked for."""
        change = self.experts[i].changes[layer]
        b, a = change.b.astype(np.float64), change.a.astype(np.float64)
        rng = self.masks(i, layer) if self.drop and self.masks else None
        step = max(1, _BLOCK // max(1, a.shape[1]))
        for begin in range(0, len(b), step):
            block = b[begin : begin + step] @ a
            if rng is not None:
                block *= (rng.random(block.shape) >= self.drop) / (1 - self.drop)
            yield block

    def together(self, layer: str) -> Iterator[tuple[np.ndarray, ...]]:
        """The same rows of all experts."""
        yield from zip(*(self.blocks(i, layer) for i in range(len(self.experts))), strict=True)


def _rebuilt(
    entries: Entries, layer: str, merged: Callable[[tuple[np.ndarray, ...]], np.ndarray], scale: float
) -> np.ndarray:
    """The merged layer, (out, in), times `scale`."""
    whole, row = np.empty(entries.shape(layer)), 0
    for blocks in entries.together(layer):
        done = row + len(blocks[0])
        np.multiply(merged(blocks), scale, out=whole[row:done])
        row = done
    return whole


def cut(entries: Entries, i: int, top: float) -> float:
    """The least magnitude that stays when expert i keeps a share `top` of its entries: the smallest kept, exactly.

    Entries as large as that one stay too. Zero stands for keeping all.

    Raises:
        MergeError: a share that is not above 0 and up to 1.
    """
    if not 0 < top <= 1:
        raise MergeError(f"the share of entries to keep must be above 0 and at most 1; got {top:g}")
    sizes = [int(np.prod(entries.shape(layer))) for layer in entries.layers]
    count = max(1, round(top * sum(sizes)))
    if count >= sum(sizes):
        return 0.0
    return kth_largest(
        lambda: chain.from_iterable(entries.blocks(i, layer) for layer in entries.layers), count, max(sizes) // 2
    )


@dataclass(frozen=True)
class _Halves:
    """Weighted sums over experts of the kept entries above zero and below it, and the weights that are in them."""

    up: np.ndarray
    down: np.ndarray
    weight_up: np.ndarray
    weight_down: np.ndarray

    @classmethod
    def of(cls, blocks: Sequence[np.ndarray], weights: np.ndarray, cuts: Sequence[float]) -> "_Halves":
        up, down, weight_up, weight_down = (np.zeros(blocks[0].shape) for _ in range(4))
        for x, weight, least in zip(blocks, weights, cuts, strict=True):
            kept = x if not least else x * (np.abs(x) >= least)
            up += weight * np.maximum(kept, 0.0)
            down += weight * np.minimum(kept, 0.0)
            weight_up += weight * (kept > 0)
            weight_down += weight * (kept < 0)
        return cls(up, down, weight_up, weight_down)

    @property
    def signs(self) -> np.ndarray:
        """Of the sums of all kept entries."""
        return np.asarray(np.sign(self.up + self.down))

    def merged(self, majority: Callable[[], float]) -> np.ndarray:
        """The mean of the entries that have the elected sign; `majority` is asked for only where there is no other."""
        elected, tied = self.signs, self.up > 0
        tied &= elected == 0
        if tied.any():
            elected[tied] = majority()
        weight = np.where(elected > 0, self.weight_up, self.weight_down)
        total = np.where(elected > 0, self.up, np.where(elected < 0, self.down, 0.0))
        return total / np.where(weight > 0, weight, 1.0)


def trim_elect_merge(entries: Entries, top: float = 0.2, scale: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
    """TIES, dense, one layer at a time; after DARE it is DARE-TIES.

    Args:
        top: share of an expert's entries that stays, above 0 and at most 1; 1 trims nothing.
        scale: lambda, which the merged change is multiplied by.

    Raises:
        MergeError: as `shares`, `layers` and `cut`.
    """
    names, weights = entries.layers, shares(entries.experts)
    cuts = [cut(entries, i, top) for i in range(len(weights))]
    halves = partial(_Halves.of, weights=weights, cuts=cuts)

    @cache
    def majority() -> float:
        """The sign of the sum of all elected signs."""
        each = (halves(blocks).signs.sum() for layer in names for blocks in entries.together(layer))
        return float(np.sign(sum(each)))

    for layer in names:
        yield layer, _rebuilt(entries, layer, lambda blocks: halves(blocks).merged(majority), scale)


def mean_of(entries: Entries, scale: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
    """Lambda times the weighted mean of the entries, dense, one layer at a time: DARE's own merge.

    Raises:
        MergeError: as `shares` and `layers`.
    """
    names, weights = entries.layers, shares(entries.experts)

    def mean(blocks: tuple[np.ndarray, ...]) -> np.ndarray:
        return np.asarray(sum(w * x for w, x in zip(weights, blocks, strict=True)))

    for layer in names:
        yield layer, _rebuilt(entries, layer, mean, scale)
