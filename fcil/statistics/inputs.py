"""Statistics of layers' inputs that a client may report beside weights.

They are sums over its samples, so they add over clients, batches and passes. With X (in, tokens) a layer's inputs,
G = X X^T is their Gram matrix. Each statistic gives the shapes of what arrives (so that the server can check it) and a
collector that sums it (`start`).
Observed inputs are cast to float32; sums run in float32 over a batch and in float64 over batches; float32 is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.merging import packed
from fcil.method import Draw, GramShape, Model, NoSum, Shapes, head
from fcil.model.lora import A, layers_of
from fcil.model.weight_adapter import sides_of
from fcil.statistics.frequent_directions import FrequentDirections

if TYPE_CHECKING:
    from torch import Tensor

    Observers = Mapping[str, Callable[[Tensor], None]]

__all__ = [
    "HeadGram", "InputEnergy", "InputGram", "InputSketch", "ProjectedGram", "gram_of_sketch", "head_gram",
    "input_energy", "input_gram", "input_sketch", "projected_gram",
]  # fmt: skip


def projected_gram(layer: str) -> str:
    """Name P = A G A^T of a layer."""
    return f"{layer}.projected_gram"


def input_energy(layer: str) -> str:
    """Name g = diag(G) of a layer."""
    return f"{layer}.input_energy"


def input_gram(layer: str) -> str:
    """Name the upper half of G of a layer."""
    return f"{layer}.input_gram"


def input_sketch(layer: str) -> str:
    """Name the sketch S of a layer: S^T S + a diagonal is about G."""
    return f"{layer}.input_sketch"


def gram_of_sketch(sketch: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Estimate G from a sketch: the upper half, in float64, of S^T S with its diagonal raised to the exact one.

    Args:
        sketch: S, (k, in).
        energy: (in,) diag(G), never below the diagonal of S^T S but for rounding.
    """
    s = sketch.astype(np.float64)
    gram = s.T @ s
    np.fill_diagonal(gram, np.maximum(np.diagonal(gram), energy))
    return symmetric_half(gram)


def head_gram(task: int) -> str:
    """Name the Gram matrix of the features that reach a task's head rows."""
    return f"head.{task}.gram"


def _energy(x: Tensor) -> Tensor:
    return x.detach().float().flatten(0, -2).square().sum(0).double()


def _outer(x: Tensor) -> Tensor:
    x = x.detach().float().flatten(0, -2)
    return (x.T @ x).double()


@dataclass
class _Sums:
    """Collects sums of what observers see, and turns them into arrays at the end."""

    layers: Observers = field(default_factory=dict)
    gradients: Observers = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    result: Callable[[Mapping[str, np.ndarray]], Arrays] = dict

    def add(self, name: str, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Add a function of one batch's inputs to a sum."""
        share = function(x)
        self.sums[name] = self.sums[name] + share if name in self.sums else share

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Ignore the features: only layer inputs are summed."""

    def finish(self) -> Arrays:
        """Turn the sums into float32 arrays."""
        out = self.result({name: s.cpu().numpy() for name, s in self.sums.items()})
        return {name: np.asarray(a, np.float32) for name, a in out.items()}


@dataclass(frozen=True)
class InputEnergy:
    """Statistic g = diag(X X^T) of every adapted layer: `in` floats each, one vector, never an in x in matrix."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Declare a diagonal of shape (in,) per layer."""
        return {input_energy(layer): GramShape((n,), "diagonal") for layer, (_, n) in sides_of(broadcast).items()}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sums:
        """Start a collector of x_j^2 over tokens."""
        sums = _Sums()
        sums.layers = {layer: partial(sums.add, input_energy(layer), _energy) for layer in sides_of(arrays)}
        return sums


@dataclass(frozen=True)
class InputGram:
    """Statistic G = X X^T of every adapted layer: in (in + 1) / 2 floats each, 67 million a client in a ViT-B/16."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes: (in (in + 1) / 2,) per layer, the upper half row by row."""
        widths = {layer: n for layer, (_, n) in sides_of(broadcast).items()}
        return {input_gram(layer): GramShape((n * (n + 1) // 2,), "half") for layer, n in widths.items()}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sums:
        """Start a collector of x x^T over tokens."""
        sums = _Sums(result=lambda grams: {name: symmetric_half(gram) for name, gram in grams.items()})
        sums.layers = {layer: partial(sums.add, input_gram(layer), _outer) for layer in sides_of(arrays)}
        return sums


@dataclass
class _Sketches(_Sums):
    """Collects a sketch of each layer's inputs by frequent directions, and the exact diagonals."""

    streams: dict[str, FrequentDirections] = field(default_factory=dict)

    def observe(self, layer: str, x: Tensor) -> None:
        """Add one batch's inputs of a layer to its sketch and diagonal."""
        self.add(input_energy(layer), _energy, x)
        self.streams[layer].add(x.detach().float().flatten(0, -2))

    def finish(self) -> Arrays:
        """Turn sketches and diagonals into float32 arrays."""
        sketches = {input_sketch(layer): s.sketch().float().cpu().numpy() for layer, s in self.streams.items()}
        return {**sketches, **_Sums.finish(self)}


@dataclass(frozen=True)
class InputSketch:
    """Sketch of G of every adapted layer in k rows (`frequent_directions`), and diag(G): k in + in floats each."""

    rows: int
    """k."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes: (k, in) and (in,) per layer, with k = in at most."""
        widths = {layer: n for layer, (_, n) in sides_of(broadcast).items()}
        sketches = {input_sketch(layer): NoSum((min(self.rows, n), n), "root") for layer, n in widths.items()}
        return {**sketches, **InputEnergy().shapes(broadcast)}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sketches:
        """Start a collector that sketches the stream of inputs."""
        sums = _Sketches()
        sums.streams = {layer: FrequentDirections(n, self.rows) for layer, (_, n) in sides_of(arrays).items()}
        sums.layers = {layer: partial(sums.observe, layer) for layer in sums.streams}
        return sums


@dataclass(frozen=True)
class ProjectedGram:
    """Statistic P = A G' A^T of every adapted layer, r(r+1)/2 floats each, for the A that the client holds.

    `exact` sums (A x)(A x)^T over tokens, so that no in x in matrix is ever needed; `diagonal` is A diag(g) A^T with
    g = diag(G), the setting of LoRM's published runs. G' is G with its off-diagonals times `shrink`, which takes both:

        A G' A^T = shrink A G A^T + (1 - shrink) A diag(g) A^T
    """

    kind: Literal["exact", "diagonal"]
    shrink: float = 1.0
    """Factor of the off-diagonals of G for `exact`; `diagonal` has none."""

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes: (r (r + 1) / 2,) per layer, the upper half row by row."""
        ranks = {layer: broadcast[layer + A][0] for layer in layers_of(broadcast)}
        return {projected_gram(layer): GramShape((r * (r + 1) // 2,), "half") for layer, r in ranks.items()}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sums:
        """Start a collector of z z^T with z = A x, or of x_j^2, which is projected at the end, or of both."""
        import torch

        factors = {layer: torch.from_numpy(np.asarray(arrays[layer + A], np.float32)) for layer in layers_of(arrays)}
        amount = self.shrink if self.kind == "exact" else 0.0

        def exact(a: Tensor, x: Tensor) -> Tensor:
            z = x.detach().float().flatten(0, -2) @ a.to(x.device).T  # (tokens, r)
            return (z.T @ z).double()

        def observe(layer: str, x: Tensor) -> None:
            if amount > 0:
                sums.add(projected_gram(layer), partial(exact, factors[layer]), x)
            if amount < 1:
                sums.add(input_energy(layer), _energy, x)

        def projected(layer: str, of: Mapping[str, np.ndarray]) -> np.ndarray:
            whole, energy = of.get(projected_gram(layer)), of.get(input_energy(layer))
            if energy is None:
                return of[projected_gram(layer)]
            a = factors[layer].double().numpy()
            flat = (a * energy) @ a.T
            return np.asarray(flat if whole is None else amount * whole + (1 - amount) * flat)

        sums = _Sums(result=lambda of: {projected_gram(n): symmetric_half(projected(n, of)) for n in factors})
        sums.layers = {layer: partial(observe, layer) for layer in factors}
        return sums


@dataclass
class _HeadSums(_Sums):
    """Collects sums of features instead of layer inputs."""

    name: str = ""
    diagonal: bool = False

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add f f^T, or f_j^2, of a batch's features f."""
        self.add(self.name, _energy if self.diagonal else _outer, features)


@dataclass(frozen=True)
class HeadGram:
    """Statistic sum f f^T of a task's features, off-diagonals times `amount`: d(d+1)/2 floats, or d if `amount` = 0."""

    task: int
    amount: float = 1.0

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes: (d (d + 1) / 2,), the upper half row by row; or (d,), the diagonal."""
        d = broadcast[head.weight(self.task)][1]
        whole = GramShape((d * (d + 1) // 2,), "half")
        return {head_gram(self.task): GramShape((d,), "diagonal") if self.amount == 0 else whole}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _HeadSums:
        """Start a collector of f f^T, or f_j^2, over samples."""
        name, diagonal = head_gram(self.task), self.amount == 0

        def finish(sums: Mapping[str, np.ndarray]) -> Arrays:
            return {name: sums[name] if diagonal else packed.shrunk(symmetric_half(sums[name]), self.amount)}

        return _HeadSums(result=finish, name=name, diagonal=diagonal)
