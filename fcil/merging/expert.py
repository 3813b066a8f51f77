"""What is merged: models that left one start, a round's clients or finished tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import MergeError
from fcil.merging.lowrank import LowRank

__all__ = ["Expert", "layers", "moved", "number", "multiples", "shares"]


@dataclass(frozen=True)
class Expert:
    """One of the models that a merge is given, as its change from the start that all of them share."""

    changes: Mapping[str, LowRank]
    """Layer -> change of its weight."""
    weight: float = 1.0
    """Training samples behind it, where those count."""
    statistics: Arrays = field(default_factory=dict)
    """What the method asked for beside weights, for example a layer's Gram."""
    number: int | None = None
    """The client or the task: what is drawn for it does not depend on who else takes part. None: its place."""


def _some(experts: Sequence[Expert]) -> None:
    if not experts:
        raise MergeError("nothing to merge: the list of experts is empty")


def layers(experts: Sequence[Expert]) -> list[str]:
    """The layers that all experts have in common, in the order of the first.

    Raises:
        MergeError: no experts; layers or shapes that differ; changes that are not finite. Before anything is merged.
    """
    _some(experts)
    shapes = {layer: change.shape for layer, change in experts[0].changes.items()}
    for i, expert in enumerate(experts):
        odd = [n for n in {**shapes, **expert.changes} if n not in expert.changes or n not in shapes]
        odd = odd or [n for n, change in expert.changes.items() if change.shape != shapes[n]]
        if odd:
            raise MergeError(f"expert {i} differs from expert 0 in {', '.join(sorted(odd)[:3])}")
        for layer, change in expert.changes.items():
            if not (np.isfinite(change.b).all() and np.isfinite(change.a).all()):
                raise MergeError(f"expert {i}: the change of {layer} is infinite or NaN")
    return list(shapes)


def number(experts: Sequence[Expert], place: int) -> int:
    """The number of one of them, or else its place."""
    own = experts[place].number
    return place if own is None else own


def moved(experts: Sequence[Expert]) -> None:
    """Raise MergeError where no expert has changed anything: there is nothing to merge, and much that divides by it."""
    if not any(change.b.any() and change.a.any() for expert in experts for change in expert.changes.values()):
        raise MergeError(f"nothing to merge: all changes of {len(experts)} experts are zero")


def shares(experts: Sequence[Expert]) -> np.ndarray:
    """Their weights, summing to one.

    Raises:
        MergeError: no experts; weights that are negative, not finite or all zero.
    """
    _some(experts)
    w = np.array([expert.weight for expert in experts], np.float64)
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise MergeError(f"weights of experts must be finite, not negative and not all zero; got {w.tolist()}")
    return np.asarray(w / w.sum())


def multiples(experts: Sequence[Expert]) -> list[float]:
    """Their weights as multiples of the mean weight, 1 each over tasks: for published sums, which are over equals.

    Raises:
        MergeError: as `shares`.
    """
    shares(experts)
    mean = float(np.mean([expert.weight for expert in experts]))
    return [expert.weight / mean for expert in experts]
