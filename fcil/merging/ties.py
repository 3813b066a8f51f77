"""Merge by TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708) and DARE (Yu et al., ICML 2024, arXiv 2311.03099).

Both work on the entries of the products B_i A_i, which are formed anew in every pass, some rows at a time, and never
held: beside the factors there is one dense layer, the result.

    trim    of expert i the round(top * d) largest of its d entries stay, counted over all layers together
    elect   gamma = sign(sum_i w_i x_i); where that is exactly zero, the sign that most entries have
    merge   the mean of the entries that have the elected sign, weighted by w_i, times lambda

Literal transcription: `tests/reference_ties.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain

import numpy as np

from fcil.errors import MergeError
from fcil.merging.expert import Expert, check_compatible, shares
from fcil.merging.kth_largest import kth_largest

__all__ = ["Entries", "Masks", "entrywise_mean", "trim_elect_merge", "trim_threshold"]

Masks = Callable[[int, str], np.random.Generator]
"""(expert, layer) -> the generator that draws its mask."""

_BLOCK = 1 << 15
"""Number of entries of an expert that are formed at a time."""


@dataclass(frozen=True)
class Entries:
    """The entries x of experts' changes; with `drop`, DARE makes them m x / (1 - p), m = 0 with probability p."""

    experts: Sequence[Expert]
    """Experts with the same layers and shapes."""
    drop: float = 0.0
    """The drop rate p, from 0 to below 1."""
    masks: Masks | None = None
    """Needed if entries are dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1 or (self.drop and self.masks is None):
            raise MergeError(f"a drop rate must be from 0 to below 1, with masks to draw; got {self.drop:g}")

    @cached_property
    def layers(self) -> list[str]:
        """The layers that all experts have; raises MergeError as `check_compatible`."""
        return check_compatible(self.experts)

    def shape(self, layer: str) -> tuple[int, int]:
        """The shape (out, in) of a layer."""
        return self.experts[0].changes[layer].shape

    def blocks(self, i: int, layer: str) -> Iterator[np.ndarray]:
        """Yield the rows of expert i's change of a layer, some at a time; every call yields the same."""
        change = self.experts[i].changes[layer].in_float64()
        out, width = change.shape
        rng = self.masks(i, layer) if self.drop and self.masks else None
        step = max(1, _BLOCK // max(1, width))
        for begin in range(0, out, step):
            block = change.rows(begin, begin + step)
            if rng is not None:
                block = block * ((rng.random(block.shape) >= self.drop) / (1 - self.drop))
            yield block

    def together(self, layer: str) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield the same rows of all experts, some at a time."""
        yield from zip(*(self.blocks(i, layer) for i in range(len(self.experts))), strict=True)


def _merge_layer(
    entries: Entries, layer: str, merged: Callable[[tuple[np.ndarray, ...]], np.ndarray], scale: float
) -> np.ndarray:
    """Merge a layer block by block: (out, in), times `scale`."""
    layer_change, row = np.empty(entries.shape(layer)), 0
    for blocks in entries.together(layer):
        done = row + len(blocks[0])
        np.multiply(merged(blocks), scale, out=layer_change[row:done])
        row = done
    return layer_change


def trim_threshold(entries: Entries, i: int, top: float) -> float:
    """The smallest magnitude that expert i keeps, exactly, when a share `top` of its entries stays; 0 keeps all.

    All entries of that magnitude stay.

    Raises:
        MergeError: the share is not above 0 and at most 1.
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
    def of(cls, blocks: Sequence[np.ndarray], weights: np.ndarray, thresholds: Sequence[float]) -> "_Halves":
        up, down, weight_up, weight_down = (np.zeros(blocks[0].shape) for _ in range(4))
        for x, weight, threshold in zip(blocks, weights, thresholds, strict=True):
            large_entries = x if not threshold else x * (np.abs(x) >= threshold)
            up += weight * np.maximum(large_entries, 0.0)
            down += weight * np.minimum(large_entries, 0.0)
            weight_up += weight * (large_entries > 0)
            weight_down += weight * (large_entries < 0)
        return cls(up, down, weight_up, weight_down)

    @property
    def signs(self) -> np.ndarray:
        """The signs of the sums of all kept entries."""
        return np.asarray(np.sign(self.up + self.down))

    def merged(self, majority: Callable[[], float]) -> np.ndarray:
        """The mean of the entries that have the elected sign; where the sum is exactly zero, that is `majority()`."""
        elected, tied = self.signs, self.up > 0
        tied &= elected == 0
        if tied.any():
            elected[tied] = majority()
        weight = np.where(elected > 0, self.weight_up, self.weight_down)
        total = np.where(elected > 0, self.up, np.where(elected < 0, self.down, 0.0))
        return total / np.where(weight > 0, weight, 1.0)


def trim_elect_merge(entries: Entries, top: float = 0.2, scale: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
    """Merge by TIES, dense, one layer at a time; of entries that DARE dropped it is DARE-TIES.

    Args:
        top: share of an expert's entries that stays, above 0 and at most 1; 1 trims nothing.
        scale: lambda, the factor of the merged change.

    Raises:
        MergeError: as `shares`, `check_compatible` and `trim_threshold`.
    """
    names, weights = entries.layers, shares(entries.experts)
    thresholds = [trim_threshold(entries, i, top) for i in range(len(weights))]
    halves = partial(_Halves.of, weights=weights, thresholds=thresholds)

    @cache
    def majority() -> float:
        """The sign that most entries elect: that of the sum of all elected signs."""
        signs = (halves(blocks).signs.sum() for layer in names for blocks in entries.together(layer))
        return float(np.sign(sum(signs)))

    for layer in names:
        yield layer, _merge_layer(entries, layer, lambda blocks: halves(blocks).merged(majority), scale)


def entrywise_mean(entries: Entries, scale: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
    """Merge by lambda times the weighted mean of the entries, dense, one layer at a time, as DARE itself does.

    Raises:
        MergeError: as `shares` and `check_compatible`.
    """
    names, weights = entries.layers, shares(entries.experts)

    def mean(blocks: tuple[np.ndarray, ...]) -> np.ndarray:
        return np.asarray(sum(w * x for w, x in zip(weights, blocks, strict=True)))

    for layer in names:
        yield layer, _merge_layer(entries, layer, mean, scale)
