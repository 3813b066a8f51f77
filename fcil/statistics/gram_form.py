"""Choose the form in which clients report the Gram matrix of a layer's inputs: diagonal, full, or a sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fcil.arrays import Arrays
from fcil.merging import packed
from fcil.method import Statistic
from fcil.statistics.inputs import (
    InputEnergy,
    InputGram,
    InputSketch,
    gram_of_sketch,
    input_energy,
    input_gram,
    input_sketch,
)

__all__ = ["FORMS", "GramForm"]

FORMS = ("diagonal", "full", "sketch:<k>")
"""The forms as written in settings."""


@dataclass(frozen=True)
class GramForm:
    """Form of G = X X^T of a layer's inputs, (in, in): which statistic a client sums for it, and how it is read."""

    kind: Literal["diagonal", "full", "sketch"]
    rows: int = 0
    """k, the rows of a sketch."""
    shrink: float = 1.0
    """Factor of the off-diagonals of a full or sketched G: 1 leaves them, 0 drops them."""

    @classmethod
    def parse(cls, text: str, shrink: float = 1.0) -> GramForm:
        """Parse the form that a setting names.

        >>> GramForm.parse("sketch:32")
        GramForm(kind='sketch', rows=32, shrink=1.0)
        """
        kind, _, rows = text.partition(":")
        if kind == "sketch":
            return cls("sketch", int(rows), shrink)
        return cls("full", shrink=shrink) if kind == "full" else cls("diagonal")

    @property
    def whole(self) -> bool:
        """Tell whether G is read as a matrix, packed into its upper half; otherwise it is a diagonal."""
        return self.kind != "diagonal"

    @property
    def statistic(self) -> Statistic:
        """Statistic that a client sums in a pass over its data."""
        if self.kind == "sketch":
            return InputSketch(self.rows)
        return InputGram() if self.kind == "full" else InputEnergy()

    def read(self, statistics: Arrays, layer: str) -> np.ndarray:
        """Read G of a layer from a client's statistics: (in,), or the upper half, (in (in + 1) / 2,)."""
        if self.kind == "diagonal":
            return statistics[input_energy(layer)]
        if self.kind == "full":
            gram = statistics[input_gram(layer)]
        else:
            gram = gram_of_sketch(statistics[input_sketch(layer)], statistics[input_energy(layer)])
        return gram if self.shrink == 1 else packed.shrunk(gram, self.shrink)
