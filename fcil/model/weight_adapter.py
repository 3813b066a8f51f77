"""Adapters that change weights of the backbone's linear layers, and the names under which layers' changes travel.

What an adapter's arrays make of a layer's weight, `changes`, is all that a merge has to know of it: LoRA's is B A, that
of full tuning any matrix. What a merge makes of changes goes back into arrays by `module_with`, to train on, or by
`deployed`, to be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from fcil.arrays import Arrays
from fcil.merging.lowrank import Change, LowRank, dense
from fcil.method import Adapter

__all__ = ["DELTA", "PARAMETER", "Draw", "LayerChanges", "WeightAdapter", "differences", "sides_of"]

DELTA = ".delta"
"""Ending of a dense change of a layer's weight, (out, in); it trains under full tuning only."""
PARAMETER = "parameter."
"""Beginning of the name of a change of any other parameter, `parameter.<name>`, under full tuning."""
Draw = Callable[..., np.random.Generator]
"""purpose, ... -> the generator for it."""
_ENDINGS: Mapping[str, Callable[[Mapping[str, tuple[int, ...]], str], tuple[int, int]]] = {
    ".lora_A": lambda sizes, layer: (sizes[f"{layer}.lora_B"][0], sizes[f"{layer}.lora_A"][1]),
    ".kernel_in": lambda sizes, layer: (
        sizes[f"{layer}.kernel_out"][0] * sizes[f"{layer}.kernel_out"][2], sizes[f"{layer}.kernel_in"][2]
    ),
    DELTA: lambda sizes, layer: (sizes[layer + DELTA][0], sizes[layer + DELTA][1]),
}  # fmt: skip


def sides_of(arrays: Mapping[str, np.ndarray | tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Layer whose weight any adapter changes -> (out, in), from arrays or their shapes, in the order of the arrays."""
    sizes = {name: a.shape if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
    sides: dict[str, tuple[int, int]] = {}
    for name in sizes:
        for ending, side in _ENDINGS.items():
            if name.endswith(ending) and (layer := name.removesuffix(ending)) not in sides:
                sides[layer] = side(sizes, layer)
    return sides


KEPT = 1 << 28
"""Bytes up to which a model's dense changes are kept once they are made; of a larger model only the last layer's."""


class LayerChanges(Mapping[str, LowRank]):
    """Layer -> its dense change, made when it is asked for. Merges ask several times, layer by layer."""

    def __init__(self, sides: Mapping[str, tuple[int, int]], make: Callable[[str], LowRank]) -> None:
        self._layers, self._make = list(sides), make
        self._all = 8 * sum(out * width for out, width in sides.values()) <= KEPT
        self._made: dict[str, LowRank] = {}

    def __getitem__(self, layer: str) -> LowRank:
        """Return the change of a layer; raises KeyError for an unknown one."""
        if layer not in self._layers:
            raise KeyError(layer)
        if layer not in self._made:
            if not self._all:
                self._made.clear()
            self._made[layer] = self._make(layer)
        return self._made[layer]

    def __iter__(self) -> Iterator[str]:
        """Go through the layers."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._layers)


def differences(changes: Mapping[str, LowRank], start: Mapping[str, LowRank]) -> Mapping[str, LowRank]:
    """Layer -> its change less that of the start; dense ones are made when they are asked for."""
    if isinstance(changes, LayerChanges):
        return LayerChanges(
            {layer: change.shape for layer, change in start.items()}, lambda layer: changes[layer].minus(start[layer])
        )
    return {layer: change.minus(start[layer]) for layer, change in changes.items()}


class WeightAdapter(Adapter):
    """The base of the adapters that change linear layers' weights, W0 + change."""

    def changes(self, arrays: Arrays, every_parameter: bool = False) -> Mapping[str, LowRank]:
        """Layer -> its change, (out, in), in the order of the arrays.

        With `every_parameter` also `parameter.<name>` -> its change as one row, (1, n), where an adapter changes others
        than linear layers' weights.
        """
        raise NotImplementedError(f"{type(self).__name__}.changes")

    def module_with(
        self, module: Arrays, start: Arrays, changes: Iterable[tuple[str, Change]], draw: Draw
    ) -> dict[str, np.ndarray]:
        """The arrays to train next, so that layers' changes are those given, or as near as the arrays can come.

        Args:
            module: the adapter's arrays now, whose other arrays stay.
            start: those at the start, where `starts_at_zero` is False.
            changes: of every layer, one at a time, named as in `changes`.
            draw: randomness for what has to begin anew.
        """
        raise NotImplementedError(f"{type(self).__name__}.module_with")

    def with_room(self, module: Arrays) -> Arrays:
        """The module with all the arrays that `module_with` will give it; the same unless overridden."""
        return module

    def frozen(self, layer: str, weight: np.ndarray, arrays: Arrays) -> np.ndarray:
        """The frozen weight beside a layer's change in the network, (out, in): the pre-trained one unless overridden.

        Args:
            weight: the pre-trained weight, (out, in).
            arrays: those in the network.
        """
        return weight

    def deployed(self, layer: str, change: Change, module: Arrays) -> dict[str, np.ndarray]:
        """The arrays by which a layer's change is evaluated: unless overridden one dense matrix, float32.

        Args:
            module: arrays of the adapter, for their shapes.
        """
        return {layer + DELTA: dense(change).astype(np.float32)}
