"""The gradients of a client's training, summed while it goes on: see `Local.training`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, names_matching
from fcil.method import Draw, Model, NoSum, Shapes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MeanGradient", "mean_gradient"]


def mean_gradient(name: str) -> str:
    """Name the mean gradient of an array over the steps of a client's training."""
    return f"{name}.gradient"


@dataclass
class _Gradients:
    """Sums the gradients of the steps."""

    model: Model
    names: list[str]
    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add the gradients of the step that was taken; an array that the loss does not reach has none."""
        self.steps += 1
        for name in self.names:
            g = self.model.arrays[name].grad
            if g is not None:
                self.sums[name] = self.sums[name].add_(g) if name in self.sums else g.double()

    def finish(self) -> Arrays:
        """Divide by the number of steps; zero where there was no gradient."""
        means = {name: (s / self.steps).float().cpu().numpy() for name, s in self.sums.items()}
        shapes = {name: tuple(self.model.arrays[name].shape) for name in self.names}
        return {mean_gradient(n): means.get(n, np.zeros(shape, np.float32)) for n, shape in shapes.items()}


@dataclass(frozen=True)
class MeanGradient:
    """The mean over a client's steps of the gradient of its whole loss in named arrays; for `Local.training`."""

    patterns: tuple[str, ...]
    """Glob patterns of arrays that train."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """The shapes of the arrays that match."""
        return {
            mean_gradient(name): NoSum(broadcast[name], "constant") for name in names_matching(broadcast, self.patterns)
        }

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Gradients:
        """Start a collector that reads the gradients after each step."""
        return _Gradients(model, names_matching(arrays, self.patterns))
