"""Statistics of a client's gradients: Fisher diagonals, and second moments of the gradients at layers' outputs.

The loss is the cross-entropy of the true labels over the current task's classes, as in training: the *empirical* Fisher
information, unless another `Kind` is asked for. They are sums over samples, so that they add over clients; see
`fcil.statistics.inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from fcil.arrays import Arrays, names_matching, symmetric_half
from fcil.method import Draw, GramShape, Model, Pass, Shapes, Statistic, Task, head
from fcil.model.lora import B
from fcil.model.weight_adapter import DELTA, PARAMETER, sides_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EVERY_PARAMETER", "SAMPLES", "WHOLE_WEIGHTS", "Fisher", "Kind", "OutputGram", "fisher_of", "fisher_pass",
    "gradient_pass", "output_gram",
]  # fmt: skip

Kind = Literal["empirical", "exact", "mammoth"]
"""With g_c the gradient of log p(c|x), p over the current task's classes, and y the true label, a sample's share is

    empirical  g_y^2
    exact      sum_c p(c|x) g_c^2: the Fisher information, whose labels are the model's own
    mammoth    p(y|x) g_y^2, as the EWC of mammoth and of fed-mammoth has it: neither of them
"""
SAMPLES = "samples"
"""Name of the number of samples behind a client's output Grams, (1,)."""
WHOLE_WEIGHTS = (f"*{DELTA}",)
"""Pattern of the whole weights of the layers that an adapter changes, for `fisher_pass`."""
EVERY_PARAMETER = (f"{PARAMETER}*", f"*{DELTA}")
"""Patterns of all that changes under full tuning."""


def fisher_of(name: str) -> str:
    """Name the Fisher diagonal of an array; a layer's whole weight goes by `<layer>.delta`."""
    return f"{name}.fisher"


def output_gram(layer: str) -> str:
    """Name the upper half of S = sum g g^T of a layer, g being the loss's gradient at its output."""
    return f"{layer}.output_gram"


def at_zero_delta(arrays: Arrays, references: Arrays) -> Arrays:
    """Add a dense change of zero to every adapted layer that has none: its gradient is that of the whole weight."""
    zeros = {layer + DELTA: np.zeros(side, np.float32) for layer, side in sides_of(arrays).items()}
    return {**arrays, **{name: zero for name, zero in zeros.items() if name not in arrays}}


@dataclass
class _Squares:
    """Collects squared gradients of the loss of each batch."""

    model: Model
    task: Task
    sums: dict[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def add(self, name: str, share: Tensor) -> None:
        """Add one batch's share to a sum, in float64."""
        self.sums[name] = self.sums[name].add_(share) if name in self.sums else share.double()

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Differentiate the loss, summed over samples: a sample's gradient at a token does not depend on its batch."""
        import torch
        from torch.nn import functional as F

        logits = self.model.logits(features, (self.task.index,))
        loss = F.cross_entropy(logits, labels - self.task.first, reduction="sum")
        leaves = {name: leaf for name, leaf in self.model.arrays.items() if leaf.requires_grad}
        for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            self.add(fisher_of(name), g.square())

    def finish(self) -> Arrays:
        """Turn the sums into float32 arrays."""
        return {name: s.float().cpu().numpy() for name, s in self.sums.items()}


@dataclass
class _WeightedSquares(_Squares):
    """Collects g_c^2 weighted by p(c|x), over all classes of the task or of the true one alone; batches of one."""

    true_class_alone: bool = False

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Differentiate the log-probability of one class after the other."""
        import torch

        (log_p,) = self.model.logits(features, (self.task.index,)).log_softmax(1)
        weights = log_p.detach().exp()
        leaves = {name: leaf for name, leaf in self.model.arrays.items() if leaf.requires_grad}
        classes = (labels - self.task.first).tolist() if self.true_class_alone else range(self.task.size)
        for c in classes:
            gradients = torch.autograd.grad(log_p[c], list(leaves.values()), retain_graph=True)
            for name, g in zip(leaves, gradients, strict=True):
                self.add(fisher_of(name), weights[c] * g.square())


@dataclass
class _Outers(_Squares):
    """Collects outer products of the gradients at layers' outputs instead."""

    samples: int = 0

    def add(self, name: str, share: Tensor) -> None:
        """Drop an array's gradient, which is only taken so that those at the outputs can be observed."""

    def observe(self, layer: str, g: Tensor) -> None:
        """Add g g^T over tokens to a layer's sum."""
        g = g.detach().float().flatten(0, -2)
        _Squares.add(self, output_gram(layer), g.T @ g)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Count the samples, and differentiate the loss."""
        self.samples += len(labels)
        _Squares.batch(self, features, labels, samples)

    def finish(self) -> Arrays:
        """Turn the sums into upper halves in float32, and add the number of samples."""
        grams = {name: symmetric_half(gram) for name, gram in _Squares.finish(self).items()}
        return {SAMPLES: np.array([self.samples], np.float32), **grams}


@dataclass(frozen=True)
class Fisher:
    """sum over samples of the squared gradient of named arrays, under the names of `fisher_of`.

    It is a sum, to be divided by the number of samples, which the server knows. Needs a pass with batches of one sample
    (`fisher_pass`): the square of a sum is not the sum of squares.
    """

    task: Task
    patterns: tuple[str, ...]
    """Glob patterns of arrays of the broadcast, of whatever adapter; or WHOLE_WEIGHTS."""
    kind: Kind = "empirical"

    def shapes(self, broadcast: Shapes) -> Shapes:
        """The shapes of the arrays that match; of whole weights (out, in) per layer.

        Raises:
            ValueError: a pattern matches nothing, or the task's head rows, of which the loss is made, are not sent.
        """
        if head.weight(self.task.index) not in broadcast:
            raise ValueError(
                f"Fisher: the broadcast lacks {head.block(self.task.index)}, from which the loss is computed; a phase "
                "that only reports sends it too if the method's `broadcast` puts it there"
            )
        shapes_by_name = {**broadcast, **{layer + DELTA: side for layer, side in sides_of(broadcast).items()}}
        for pattern in self.patterns:
            if not names_matching(shapes_by_name, (pattern,)):
                raise ValueError(f"Fisher: {pattern!r} matches no array of the broadcast: {sorted(broadcast)}")
        return {fisher_of(name): shapes_by_name[name] for name in names_matching(shapes_by_name, self.patterns)}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Squares:
        """Start a collector that sums g^2."""
        if self.kind == "empirical":
            return _Squares(model, self.task)
        return _WeightedSquares(model, self.task, true_class_alone=self.kind == "mammoth")


def fisher_pass(task: Task, patterns: Sequence[str], kind: Kind = "empirical") -> Pass:
    """The pass in which `Fisher` is summed, one sample at a time.

    Args:
        patterns: glob patterns of the arrays, for example `adapter.trains`; WHOLE_WEIGHTS for those of W0 + B A.
        kind: "exact" takes as many backward passes a sample as the task has classes, the others one.
    """
    names = tuple(patterns)
    if names in (WHOLE_WEIGHTS, EVERY_PARAMETER):
        return Pass((Fisher(task, names, kind),), at_zero_delta, gradients=names, batch=1)
    return Pass((Fisher(task, names, kind),), gradients=names, batch=1)


@dataclass(frozen=True)
class OutputGram:
    """Statistic S = sum g g^T over tokens of every adapted layer, out (out + 1) / 2 floats each, and sample count."""

    task: Task

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes: (out (out + 1) / 2,) per layer, the upper half row by row, and (1,) for the number of samples."""
        sides = {layer: out for layer, (out, _) in sides_of(broadcast).items()}
        return {
            SAMPLES: (1,),
            **{output_gram(layer): GramShape((n * (n + 1) // 2,), "half") for layer, n in sides.items()},
        }

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Outers:
        """Start a collector that observes the gradients at layers' outputs."""
        sums = _Outers(model, self.task)
        sums.gradients = {layer: partial(sums.observe, layer) for layer in sides_of(arrays)}
        return sums


def gradient_pass(task: Task, *others: Statistic, through: Sequence[str] = (f"*{B}",)) -> Pass:
    """Make the pass that sums `OutputGram`, and other statistics that need no gradient.

    Args:
        through: glob patterns of arrays, at least one in every layer, by which gradients reach the layers' outputs.
    """
    return Pass((OutputGram(task), *others), gradients=tuple(through))
