"""LoRA (Hu et al., arXiv 2106.09685): names, initial values and slots of the pairs (A, B) of the backbone's layers.

y = W0 x + b + B A x, without alpha scaling; the layer itself is in `fcil.model.lora_layer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import ConfigError
from fcil.merging.lowrank import Change, Dense, LowRank, truncated
from fcil.method import Backbone, Draw
from fcil.model.target_adapter import TargetAdapter
from fcil.model.weight_adapter import DELTA
from fcil.model.weight_adapter import Draw as AnyDraw
from fcil.options import Option

if TYPE_CHECKING:
    from torch import nn

    from fcil.model.lora_layer import LoraLinear

__all__ = [
    "A", "B", "DELTA", "TARGETS", "Lora", "changes_of", "layers_of", "pair_arrays", "revive_dead_components", "uniform",
]  # fmt: skip

A, B = ".lora_A", ".lora_B"
TARGETS = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")


@dataclass(frozen=True)
class Lora(TargetAdapter):
    """Train a LoRA pair (A, B) on every linear layer of the blocks; it begins at zero."""

    rank: Annotated[int, Option("rank of every pair", low=1)]
    targets: Annotated[tuple[str, ...], Option("glob patterns of the linear layers that get one")] = TARGETS
    zero: str = field(default=B, compare=False)
    """The factor that starts at zero. It has to train first: until it does, the other factor has no gradient."""
    trains: tuple[str, ...] = field(default=(f"*{A}", f"*{B}"), compare=False)

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for a rank that a layer cannot have, or targets that match nothing."""
        super().check(backbone)
        name, shape = min(self.layers(backbone).items(), key=lambda item: min(item[1]))
        if not 1 <= self.rank <= min(shape):
            raise ConfigError(
                f"method.rank = {self.rank}: must be between 1 and {min(shape)}, the smaller side of {name} {shape}"
            )

    def initial(self, backbone: Backbone, draw: Draw) -> dict[str, np.ndarray]:
        """A and B of every layer: `zero` is zero, the other U(-1/sqrt(n), 1/sqrt(n)), Kaiming uniform at a = sqrt 5."""
        rng, arrays = draw("lora"), {}
        for name, (out, width) in self.layers(backbone).items():
            for factor, shape in ((A, (self.rank, width)), (B, (out, self.rank))):
                arrays[name + factor] = uniform(rng, shape, 0.0 if factor == self.zero else 1.0)
        return arrays

    @property
    def slots(self) -> Mapping[str, str]:
        """A and B of a layer, and a dense change, for merges whose result has no factors."""
        return {A: "lora_A", B: "lora_B", DELTA: "delta"}

    def layer(self, module: nn.Module) -> LoraLinear:
        """Make the layer that takes the place of a linear one; a layer that has been made stays as it is."""
        from fcil.model.lora_layer import LoraLinear

        return module if isinstance(module, LoraLinear) else LoraLinear(module)  # type: ignore[arg-type]

    def changes(self, arrays: Arrays, every_parameter: bool = False) -> Mapping[str, LowRank]:
        """Layer -> its change B A."""
        return changes_of(arrays)

    def module_with(
        self, module: Arrays, start: Arrays, changes: Iterable[tuple[str, Change]], draw: AnyDraw
    ) -> dict[str, np.ndarray]:
        """The nearest pairs of rank `rank`, balanced, with a new row of A beside every component that is zero."""
        pairs: dict[str, np.ndarray] = {}
        for layer, change in changes:
            nearest, _ = truncated(change, self.rank)
            pairs |= pair_arrays(layer, revive_dead_components(nearest, layer, draw))
        return {**module, **pairs}

    def deployed(self, layer: str, change: Change, module: Arrays) -> dict[str, np.ndarray]:
        """A pair of any rank, or where a merge has no factors one dense matrix."""
        if isinstance(change, LowRank) and not isinstance(change, Dense):
            return pair_arrays(layer, change)
        return super().deployed(layer, change, module)


def pair_arrays(layer: str, change: LowRank) -> dict[str, np.ndarray]:
    """The arrays A and B of a layer, float32."""
    return {layer + A: change.a.astype(np.float32), layer + B: change.b.astype(np.float32)}


def revive_dead_components(pair: LowRank, layer: str, draw: AnyDraw) -> LowRank:
    """The pair with a random row of A beside every zero column of B: both zero, they could never learn again."""
    dead = np.abs(pair.a).max(1) == 0
    return LowRank(pair.b, np.where(dead[:, None], uniform(draw("unused", layer), pair.a.shape), pair.a))


def uniform(rng: np.random.Generator, shape: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """Draw (rows, n) ~ U(-1/sqrt(n), 1/sqrt(n)) times `scale`, float32."""
    bound = scale / np.sqrt(shape[1])
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def layers_of(arrays: Mapping[str, object]) -> list[str]:
    """The layers that have a pair in `arrays`, in the order of the arrays."""
    return [name.removesuffix(A) for name in arrays if name.endswith(A)]


def changes_of(arrays: Arrays) -> dict[str, LowRank]:
    """Layer -> its change B A, for every layer that has a pair in `arrays`."""
    return {layer: LowRank(arrays[layer + B], arrays[layer + A]) for layer in layers_of(arrays)}
