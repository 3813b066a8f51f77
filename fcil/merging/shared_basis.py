"""Merge experts in bases that their changes share: some merges are better, or cheaper, on the coordinates there.

    change_i = left C_i right, exactly, with the same `left` and `right` for all experts of a layer

KnOTS (`knots`) and Core Space (`core_space`) differ in the choice of `left` and `right`. Any merge of experts can be
hosted in either: it is given the coordinates in place of the changes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fcil.merging.expert import Expert, check_compatible
from fcil.merging.lowrank import Change, LowRank

__all__ = ["SharedBasis", "merge_in_basis", "merge_layers_in_basis"]


@dataclass(frozen=True)
class SharedBasis:
    """The bases that the experts' changes of one layer share, and each expert's coordinates in them."""

    coordinates: tuple[LowRank, ...]
    """The coordinates C_i of each expert, (p, q)."""
    left: np.ndarray | None = None
    """(out, p) with orthonormal columns; None stands for the identity."""
    right: np.ndarray | None = None
    """(q, in) with orthonormal rows; None stands for the identity."""

    def to_weights(self, merged: Change) -> Change:
        """Map merged coordinates C, (p, q), to `left` C `right`; in factors if one of them is not the identity."""
        if not isinstance(merged, LowRank):
            if self.left is None:
                return merged if self.right is None else LowRank(merged, self.right)
            return LowRank(self.left, merged if self.right is None else merged @ self.right)
        b = merged.b if self.left is None else self.left @ merged.b
        return LowRank(b, merged.a if self.right is None else merged.a @ self.right)


Basis = Callable[[Sequence[LowRank]], SharedBasis]
Merge = Callable[[Sequence[Expert]], Iterable[tuple[str, Change]]]


def merge_layers_in_basis(basis: Basis, experts: Sequence[Expert], merge: Merge) -> Iterator[tuple[str, Change]]:
    """Merge the experts' coordinates by `merge`, which is given one layer at a time, and map each back.

    What a merge decides over all that it sees, such as the cut of TIES, is then decided within each layer.

    Raises:
        MergeError: as `check_compatible`, before anything is merged.
    """
    for layer in check_compatible(experts):
        shared = basis([expert.changes[layer] for expert in experts])
        one = [replace(e, changes={layer: inside}) for e, inside in zip(experts, shared.coordinates, strict=True)]
        yield from ((name, shared.to_weights(change)) for name, change in merge(one))


def merge_in_basis(basis: Basis, experts: Sequence[Expert], merge: Merge) -> Iterator[tuple[str, Change]]:
    """Merge the experts' coordinates of all layers by `merge`, and map the result back to changes, layer by layer.

    A merge may look at all layers, so the coordinates of all layers are held. `left` and `right` would take as much as
    the factors in float64: they are computed again when a layer is mapped back.

    Raises:
        MergeError: as `check_compatible`, before anything is merged.
    """

    def of(layer: str) -> SharedBasis:
        return basis([expert.changes[layer] for expert in experts])

    coordinates = {layer: of(layer).coordinates for layer in check_compatible(experts)}
    projected = [
        replace(expert, changes={layer: of_layer[i] for layer, of_layer in coordinates.items()})
        for i, expert in enumerate(experts)
    ]
    for layer, change in merge(projected):
        yield layer, of(layer).to_weights(change)
