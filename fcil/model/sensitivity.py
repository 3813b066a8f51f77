"""Scores by which the layers of a kernelised adapter compete for nonzeros: sensitivity times its uncertainty.

SNELLA (arXiv 2510.24037), after AdaLoRA. After every optimiser step, for each entry of the points P and Q of a part,

    I = |theta g|     theta after the step, g the gradient before it, as in the public code
    M <- beta1 M + (1 - beta1) I,     U <- beta2 U + (1 - beta2) |I - M|,     score M U

Two numbers a part leave the client, the mean scores of its P and of its Q; M and U, as large as the points, do not.
Literal transcription: `sensitivity_scores` in `tests/reference_kernels.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays
from fcil.method import Draw, Model, Shapes
from fcil.model.kernel_form import IN, OUT
from fcil.model.kernelised import kernel_layers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sensitivity", "score_of"]


def score_of(layer: str) -> str:
    """Name the mean scores of a layer's parts, (parts, 2): of P, and of Q."""
    return f"{layer}.score"


@dataclass
class _Scores:
    """Follows the gradients of the points; `batch` is to be called after each optimiser step, gradients still there."""

    model: Model
    layers_scored: tuple[str, ...]
    beta1: float
    beta2: float
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    deviations: dict[str, Tensor] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Update both running means of every entry by the step that has just been taken."""
        import torch

        with torch.no_grad():
            for layer in self.layers_scored:
                for name in (layer + IN, layer + OUT):
                    self._follow(name)

    def _follow(self, name: str) -> None:
        import torch

        theta = self.model.arrays[name]
        if theta.grad is None:
            raise ValueError(f"{name} has no gradient: its sensitivity is read after each step of its training")
        # a step that float16 skips has gradients that are not finite; it says nothing
        i = torch.nan_to_num((theta * theta.grad).abs(), nan=0.0, posinf=0.0)
        if name not in self.means:
            self.means[name], self.deviations[name] = torch.zeros_like(i), torch.zeros_like(i)
        mean = self.means[name].mul_(self.beta1).add_(i, alpha=1 - self.beta1)
        self.deviations[name].mul_(self.beta2).add_((i - mean).abs_(), alpha=1 - self.beta2)

    def _score(self, name: str) -> np.ndarray:
        """The mean of M U over the entries of every part, (parts,), in float64: products of small numbers."""
        if name not in self.means:
            return np.zeros(len(self.model.arrays[name]))
        score = self.means[name].double() * self.deviations[name].double()
        mean: np.ndarray = score.flatten(1).mean(1).cpu().numpy()
        return mean

    def finish(self) -> Arrays:
        """Return the scores, zero if no step was taken; plain, so that the method says what a client weighs."""
        return {
            score_of(layer): np.stack([self._score(layer + IN), self._score(layer + OUT)], 1).astype(np.float32)
            for layer in self.layers_scored
        }


@dataclass(frozen=True)
class Sensitivity:
    """Statistic of training: the mean scores of P and Q of every part of every kernelised layer.

    It is no sum over samples: it is fed after each optimiser step, not in a pass. Scores grow with the square of the
    gradients, and with the square of a loss's scale where gradients are left scaled (float16); shares do not.
    """

    beta1: float = 0.85
    beta2: float = 0.85

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(parts, 2) for every layer that has points.

        Raises:
            ValueError: no layer has any.
        """
        layers = kernel_layers(broadcast)
        if not layers:
            raise ValueError(f"Sensitivity: no layer of the broadcast has points (*{IN}): {sorted(broadcast)}")
        return {score_of(layer): (broadcast[layer + IN][0], 2) for layer in layers}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Scores:
        """Begin with both running means at zero."""
        return _Scores(model, tuple(kernel_layers(arrays)), self.beta1, self.beta2)
