"""The experts that a merge combines: a round's clients or finished tasks, as changes from one common start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import MergeError
from fcil.merging.lowrank import LowRank

__all__ = [
    "Expert", "any_moved", "check_compatible", "check_moved", "expert_number", "relative_weights", "shares",
]  # fmt: skip


@dataclass(frozen=True)
class Expert:
    """One model to merge, as its change from the start that all experts share."""

    changes: Mapping[str, LowRank]
    """Layer name -> change of the layer's weight."""
    weight: float = 1.0
    """Number of the expert's training samples, where those count."""
    statistics: Arrays = field(default_factory=dict)
    """What the method asks for beside weights, for example a layer's Gram matrix."""
    number: int | None = None
    """The client's or task's number, so that draws for an expert do not depend on the others; None: its place."""


def _check_any(experts: Sequence[Expert]) -> None:
    if not experts:
        raise MergeError("nothing to merge: the list of experts is empty")


def check_compatible(experts: Sequence[Expert]) -> list[str]:
    """Check that experts can be merged, and return the layers that all of them have, in the order of the first.

    Raises:
        MergeError: there are no experts, their layers or shapes differ, or changes are not finite.
    """
    _check_any(experts)
    shapes = {layer: change.shape for layer, change in experts[0].changes.items()}
    for i, expert in enumerate(experts):
        differing = [n for n in {**shapes, **expert.changes} if n not in expert.changes or n not in shapes]
        differing = differing or [n for n, change in expert.changes.items() if change.shape != shapes[n]]
        if differing:
            raise MergeError(f"expert {i} differs from expert 0 in {', '.join(sorted(differing)[:3])}")
        for layer, change in expert.changes.items():
            if not change.is_finite:
                raise MergeError(f"expert {i}: the change of {layer} is infinite or NaN")
    return list(shapes)


def expert_number(experts: Sequence[Expert], place: int) -> int:
    """The number of the expert at a place among all experts, or that place where it has none."""
    number = experts[place].number
    return place if number is None else number


def any_moved(experts: Sequence[Expert]) -> bool:
    """Tell whether any change is not zero."""
    return not all(change.is_zero for expert in experts for change in expert.changes.values())


def check_moved(experts: Sequence[Expert]) -> None:
    """Raise MergeError if all changes are zero: there is nothing to merge, and many merges divide by their norm."""
    if not any_moved(experts):
        raise MergeError(f"nothing to merge: all changes of {len(experts)} experts are zero")


def shares(experts: Sequence[Expert]) -> np.ndarray:
    """The weights of experts, scaled to sum to one.

    Raises:
        MergeError: there are no experts, or their weights are negative, not finite or all zero.
    """
    _check_any(experts)
    w = np.array([expert.weight for expert in experts], np.float64)
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise MergeError(f"weights of experts must be finite, not negative and not all zero; got {w.tolist()}")
    return np.asarray(w / w.sum())


def relative_weights(experts: Sequence[Expert]) -> list[float]:
    """The weights of experts over their mean, for published sums over equal experts; tasks have 1 each.

    >>> relative_weights([Expert({}, weight=30), Expert({}, weight=10)])
    [1.5, 0.5]

    Raises:
        MergeError: as `shares`.
    """
    shares(experts)
    mean = float(np.mean([expert.weight for expert in experts]))
    return [expert.weight / mean for expert in experts]
