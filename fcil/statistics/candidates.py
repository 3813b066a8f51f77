"""Statistic of candidate tokens: sums over all candidates at once, each folded into a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays
from fcil.method import TOKENS, ClientUpdate, Collector, Draw, Model, Shapes, Task, Tokens, head
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import FeatureSums, Wire

__all__ = ["CandidateSums", "folded_size"]


def folded_size(size: int, blocks: int, width: int) -> int:
    """Numbers for each of so many blocks of candidates: their part of `size`, or of the features' length if less."""
    return max(1, min(size, width) // blocks)


@dataclass(frozen=True)
class CandidateSums:
    """Statistic G, Q and n of candidate tokens, a block of them folded into m = size / blocks numbers at most.

    The blocks are those of the array `tokens` in the broadcast. G holds the products within and between all blocks, so
    that it has the sums of every choice among them.
    """

    task: Task
    size: int
    """Numbers for all blocks together."""
    seed: int
    held_out: float = 0.0
    wire: Wire = "float64"

    def _sums(self, sizes: Sequence[int], width: int) -> FeatureSums:
        numbers = folded_size(self.size, len(sizes), width)
        features = FeatureMap(seed=self.seed, project=numbers, parts=tuple(sizes))
        return FeatureSums(self.task, features, held_out=self.held_out, wire=self.wire)

    def _like(self, broadcast: Shapes) -> FeatureSums:
        """A statistic of the same shapes: these do not depend on the tokens of a block."""
        return self._sums((1,) * broadcast[TOKENS][0], broadcast[head.weight(self.task.index)][1])

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes of the arrays sent."""
        return self._like(broadcast).shapes(broadcast)

    def total_shapes(self, broadcast: Shapes) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of `total`."""
        return self._like(broadcast).total_shapes(broadcast)

    def zeros(self, broadcast: Shapes) -> dict[str, np.ndarray]:
        """The arrays of `total` over no samples."""
        return self._like(broadcast).zeros(broadcast)

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> Collector:
        """Start a collector with sums of zero."""
        width = arrays[head.weight(self.task.index)].shape[1]
        return self._sums(Tokens.of(arrays[TOKENS]).sizes, width).start(arrays, model, generator)

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """Add up the clients' sums in float64, every G as its upper half."""
        return self._sums((1,), 1).total(updates)

    def objection(self, sent: Arrays, examples: int) -> str | None:
        """Say why no client with as many samples can have summed this; None where nothing speaks against it."""
        return self._sums((1,), 1).objection(sent, examples)
