"""What a client may report of its loss's gradients: Fisher diagonals, and covariances of gradients at layers' outputs.

The loss is the cross-entropy of the true labels over the current task's classes, as in training: the *empirical* Fisher
information. Sums over samples, so that they add over clients; see `fcil.statistics.inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.method import Draw, Model, Pass, Shapes, Statistic, Task, head
from fcil.model.lora import DELTA, A, B, layers_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SAMPLES", "Fisher", "OutputGram", "fisher_of", "fisher_pass", "gradient_pass", "output_gram"]

SAMPLES = "samples"
"""Name of the number of samples behind a client's output Grams, (1,)."""


def fisher_of(name: str) -> str:
    """Name of the Fisher diagonal of an array; of a layer's whole weight, under `<layer>.delta`."""
    return f"{name}.fisher"


def output_gram(layer: str) -> str:
    """Name of the upper half of S = sum g g^T of a layer, g being the loss's gradient at its output."""
    return f"{layer}.output_gram"


def at_zero_delta(arrays: Arrays, references: Arrays) -> Arrays:
    """The model with a dense change of zero on every adapted layer: its gradient is that of the whole weight."""
    sides = {layer: (len(arrays[layer + B]), arrays[layer + A].shape[1]) for layer in layers_of(arrays)}
    return {**arrays, **{layer + DELTA: np.zeros(side, np.float32) for layer, side in sides.items()}}


@dataclass
class _Squares:
    """Differentiates the loss of each batch and adds up the squares."""

    model: Model
    task: Task
    sums: dict[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def add(self, name: str, share: Tensor) -> None:
        """Add one batch's share, in float64."""
        self.sums[name] = self.sums[name].add_(share) if name in self.sums else share.double()

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """The loss is summed over samples: each one's gradient at a token is its own, whatever the batch."""
        import torch
        from torch.nn import functional as F

        logits = self.model.logits(features, (self.task.index,))
        loss = F.cross_entropy(logits, labels - self.task.first, reduction="sum")
        leaves = {name: leaf for name, leaf in self.model.arrays.items() if leaf.requires_grad}
        for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            self.add(fisher_of(name), g.square())

    def finish(self) -> Arrays:
        """The sums in float32."""
        return {name: s.float().cpu().numpy() for name, s in self.sums.items()}


@dataclass
class _Outers(_Squares):
    """Adds up outer products of the gradients at layers' outputs instead."""

    samples: int = 0

    def add(self, name: str, share: Tensor) -> None:
        """Gradients of arrays are only taken so that those at the outputs pass by."""

    def observe(self, layer: str, g: Tensor) -> None:
        """Add g g^T over tokens."""
        g = g.detach().float().flatten(0, -2)
        _Squares.add(self, output_gram(layer), g.T @ g)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Count, and differentiate."""
        self.samples += len(labels)
        _Squares.batch(self, features, labels, samples)

    def finish(self) -> Arrays:
        """Upper halves in float32, and the count."""
        found = {name: symmetric_half(gram) for name, gram in _Squares.finish(self).items()}
        return {SAMPLES: np.array([self.samples], np.float32), **found}


@dataclass(frozen=True)
class Fisher:
    """sum over samples of the squared gradient: of each adapted layer's whole weight, or of factors and head rows.

    Wants a pass with batches of one sample (`fisher_pass`): the square of a sum is not the sum of squares.
    """

    task: Task
    whole: bool

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(out, in) per layer, or the shapes of A, B and the task's head rows."""
        if self.whole:
            sides = {layer: (broadcast[layer + B][0], broadcast[layer + A][1]) for layer in layers_of(broadcast)}
            return {fisher_of(layer + DELTA): side for layer, side in sides.items()}
        rows = (head.weight(self.task.index), head.bias(self.task.index))
        return {fisher_of(n): shape for n, shape in broadcast.items() if n.endswith((A, B)) or n in rows}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Squares:
        """Sum g^2."""
        return _Squares(model, self.task)


def fisher_pass(task: Task, whole: bool) -> Pass:
    """The pass in which `Fisher` is summed, one sample at a time."""
    if whole:
        return Pass((Fisher(task, True),), at_zero_delta, gradients=(f"*{DELTA}",), batch=1)
    return Pass((Fisher(task, False),), gradients=(f"*{A}", f"*{B}", head.block(task.index)), batch=1)


@dataclass(frozen=True)
class OutputGram:
    """S = sum over tokens of g g^T of every adapted layer, out (out + 1) / 2 floats each, and the number of samples."""

    task: Task

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(out (out + 1) / 2,) per layer: the upper half, row by row; and (1,)."""
        sides = {layer: broadcast[layer + B][0] for layer in layers_of(broadcast)}
        return {SAMPLES: (1,), **{output_gram(layer): (n * (n + 1) // 2,) for layer, n in sides.items()}}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Outers:
        """Sum while the gradients pass by."""
        sums = _Outers(model, self.task)
        sums.gradients = {layer: partial(sums.observe, layer) for layer in layers_of(arrays)}
        return sums


def gradient_pass(task: Task, *others: Statistic) -> Pass:
    """The pass in which `OutputGram` is summed, and other statistics that need no gradient."""
    return Pass((OutputGram(task), *others), gradients=(f"*{B}",))
