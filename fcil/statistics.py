"""What a client may report beside weights. Sums over its samples: they add over clients, batches and passes.

Each statistic says the shape of what arrives (so that the server can check it) and how it is summed (`start`).
Observed inputs are taken to float32 and summed in float64; what is sent is float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fcil.arrays import Arrays, symmetric_half
from fcil.merging.matching import shrink
from fcil.method import Shapes
from fcil.model import head
from fcil.model.adapted import AdaptedModel
from fcil.model.lora import A, layers_of

__all__ = ["HeadGram", "InputEnergy", "ProjectedGram", "head_gram", "input_energy", "projected_gram"]

Observers = Mapping[str, Callable[[Tensor], None]]


def projected_gram(layer: str) -> str:
    """Name of P = A G A^T of a layer."""
    return f"{layer}.projected_gram"


def input_energy(layer: str) -> str:
    """Name of g = diag(G) of a layer."""
    return f"{layer}.input_energy"


def head_gram(task: int) -> str:
    """Name of the Gram matrix of the features that reach a task's head rows."""
    return f"head.{task}.gram"


def _energy(x: Tensor) -> Tensor:
    return x.detach().float().flatten(0, -2).square().sum(0).double()


@dataclass
class _Sums:
    """A collector that adds what observers see, and turns the sums into arrays at the end."""

    layers: Observers = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    result: Callable[[Mapping[str, np.ndarray]], Arrays] = dict

    def add(self, name: str, of: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Add one batch's share."""
        share = of(x)
        self.sums[name] = self.sums[name] + share if name in self.sums else share

    def batch(self, features: Tensor, labels: Tensor) -> None:
        """Nothing is taken from the features."""

    def finish(self) -> Arrays:
        """The sums in float32."""
        out = self.result({name: s.cpu().numpy() for name, s in self.sums.items()})
        return {name: np.asarray(a, np.float32) for name, a in out.items()}


@dataclass(frozen=True)
class InputEnergy:
    """g = diag(X X^T) of every adapted layer: `in` floats each, one vector, never an in x in matrix."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(in,) per layer."""
        return {input_energy(layer): (broadcast[layer + A][1],) for layer in layers_of(broadcast)}

    def start(self, arrays: Arrays, model: AdaptedModel) -> _Sums:
        """Sum x_j^2 over tokens."""
        sums = _Sums()
        sums.layers = {layer: partial(sums.add, input_energy(layer), _energy) for layer in layers_of(arrays)}
        return sums


@dataclass(frozen=True)
class ProjectedGram:
    """P = A G A^T of every adapted layer, r(r+1)/2 floats each, for the A that the client holds.

    `exact` sums (A x)(A x)^T over tokens, so that no in x in matrix is ever needed; `diagonal` is A diag(g) A^T with
    g = diag(G), the setting of LoRM's published runs.
    """

    kind: Literal["exact", "diagonal"]

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(r (r + 1) / 2,) per layer: the upper half, row by row."""
        ranks = {layer: broadcast[layer + A][0] for layer in layers_of(broadcast)}
        return {projected_gram(layer): (r * (r + 1) // 2,) for layer, r in ranks.items()}

    def start(self, arrays: Arrays, model: AdaptedModel) -> _Sums:
        """Sum z z^T with z = A x, or x_j^2 to be projected at the end."""
        factors = {layer: torch.from_numpy(np.asarray(arrays[layer + A], np.float32)) for layer in layers_of(arrays)}

        def exact(a: Tensor, x: Tensor) -> Tensor:
            z = x.detach().float().flatten(0, -2) @ a.to(x.device).T  # (tokens, r)
            return (z.T @ z).double()

        def finish(sums: Mapping[str, np.ndarray]) -> Arrays:
            out = {}
            for layer, factor in factors.items():
                p, a = sums[projected_gram(layer)], factor.double().numpy()
                out[projected_gram(layer)] = symmetric_half(p if self.kind == "exact" else (a * p) @ a.T)
            return out

        sums = _Sums(result=finish)
        sums.layers = {
            layer: partial(sums.add, projected_gram(layer), partial(exact, a) if self.kind == "exact" else _energy)
            for layer, a in factors.items()
        }
        return sums


@dataclass
class _HeadSums(_Sums):
    """Sums of features instead of layer inputs."""

    name: str = ""
    diagonal: bool = False

    def batch(self, features: Tensor, labels: Tensor) -> None:
        """Add f f^T, or f_j^2."""
        self.add(self.name, _energy if self.diagonal else _outer, features)


def _outer(features: Tensor) -> Tensor:
    return (features.detach().T @ features.detach()).double()


@dataclass(frozen=True)
class HeadGram:
    """The Gram matrix of a task's features, off-diagonals times `amount`: d(d+1)/2 floats, or d with `amount` = 0."""

    task: int
    amount: float = 1.0

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(d (d + 1) / 2,), or (d,)."""
        d = broadcast[head.weight(self.task)][1]
        return {head_gram(self.task): (d,) if self.amount == 0 else (d * (d + 1) // 2,)}

    def start(self, arrays: Arrays, model: AdaptedModel) -> _HeadSums:
        """Sum over samples."""
        name, diagonal = head_gram(self.task), self.amount == 0

        def finish(sums: Mapping[str, np.ndarray]) -> Arrays:
            return {name: sums[name] if diagonal else symmetric_half(shrink(sums[name], self.amount))}

        return _HeadSums(result=finish, name=name, diagonal=diagonal)
