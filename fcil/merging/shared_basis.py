"""Coordinates of the experts' changes: merges that are better, or cheaper, on them than on the weights themselves.

    change_i = left C_i right, exactly, with the same `left` and `right` for all experts of a layer

KnOTS (`knots`) and Core Space (`core_space`) differ in what they take for `left` and `right`. Any
merge of experts can be hosted in either: it is given the coordinates in the place of the changes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fcil.merging.expert import Expert, layers
from fcil.merging.lowrank import Change, LowRank

__all__ = ["Space", "merged_in"]


@dataclass(frozen=True)
class Space:
    """What the changes of one layer have in common, and what is each expert's own."""

    coordinates: tuple[LowRank, ...]
    """C_i of each expert, (p, q)."""
    left: np.ndarray | None = None
    """(out, p) with orthonormal columns; None stands for the identity."""
    right: np.ndarray | None = None
    """(q, in) with orthonormal rows; None stands for the identity."""

    def back(self, merged: Change) -> Change:
        """Left C right for merged coordinates C, (p, q); in factors, as long as one of `left` and `right` is there."""
        if not isinstance(merged, LowRank):
            if self.left is None:
                return merged if self.right is None else LowRank(merged, self.right)
            return LowRank(self.left, merged if self.right is None else merged @ self.right)
        b = merged.b if self.left is None else self.left @ merged.b
        return LowRank(b, merged.a if self.right is None else merged.a @ self.right)


def merged_in(
    space: Callable[[Sequence[LowRank]], Space],
    experts: Sequence[Expert],
    merge: Callable[[Sequence[Expert]], Iterable[tuple[str, Change]]],
) -> Iterator[tuple[str, Change]]:
    """The experts' coordinates merged, and brought back, layer by layer.

    A merge may look at all layers, so the coordinates of all are held at a time. `left` and `right` would be as much as
    the factors in float64: they are computed again when a layer is brought back.

    Raises:
        MergeError: as `layers`, before anything is merged.
    """

    def of(layer: str) -> Space:
        return space([expert.changes[layer] for expert in experts])

    held = {layer: of(layer).coordinates for layer in layers(experts)}
    inside = [
        replace(expert, changes={layer: each[i] for layer, each in held.items()}) for i, expert in enumerate(experts)
    ]
    for layer, change in merge(inside):
        yield layer, of(layer).back(change)
