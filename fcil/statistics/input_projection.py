"""A random sketch of layers' inputs, Y = X Omega: its sum over clients spans about what all their inputs span."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays
from fcil.method import Draw, Model, NoSum, Shapes
from fcil.model.weight_adapter import sides_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InputProjection", "projection_of"]


def projection_of(layer: str) -> str:
    """Name Y of a layer, (in, s)."""
    return f"{layer}.input_projection"


@dataclass
class _Projections:
    """Collects Y over batches; every token is multiplied by s numbers of its own."""

    columns: int
    rng: np.random.Generator
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, layer: str, x: Tensor) -> None:
        """Add a batch's inputs of a layer, (..., in)."""
        import torch

        x = x.detach().float().flatten(0, -2)
        omega = torch.from_numpy(self.rng.standard_normal((len(x), self.columns), np.float32)).to(x.device)
        share = (x.T @ omega).double()
        self.sums[layer] = self.sums[layer] + share if layer in self.sums else share

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Ignore the features: only layer inputs are summed."""

    def finish(self) -> Arrays:
        """Return Y of every layer, float32."""
        return {projection_of(layer): y.float().cpu().numpy() for layer, y in self.sums.items()}


@dataclass(frozen=True)
class InputProjection:
    """Statistic Y = sum over tokens of x omega^T of every adapted layer, in x s floats, omega ~ N(0, I) of each token.

    Each client draws its own omega and tells nobody, so Y tells the space of its inputs and no input.
    """

    columns: int
    """s."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes: (in, s) per layer."""
        return {projection_of(layer): NoSum((n, self.columns), "root") for layer, (_, n) in sides_of(broadcast).items()}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Projections:
        """Start a collector that multiplies and sums."""
        collector = _Projections(self.columns, generator("input projection"))
        collector.layers = {layer: partial(collector.observe, layer) for layer in sides_of(arrays)}
        return collector
