"""Checks every client's reply before it touches the state; a bad one is refused whole."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fcil.arrays import Arrays, shapes
from fcil.merging import packed
from fcil.method import Broadcast, ClientUpdate, GramShape, Local, Phase, Shapes, as_broadcast

__all__ = ["Expected", "arrays_refusal", "expected", "refusal"]


COUNTED = ("images", "peak_memory_bytes")
"""Metrics that enter the run's totals; all others are for the records only."""


@dataclass(frozen=True)
class Expected:
    """The names, shapes and counts of a good reply to a request."""

    phase: Phase
    arrays: Shapes
    statistics: Shapes
    num_examples: dict[int, int]
    """Client that is asked -> number of training samples that it holds."""
    arrays_of: Mapping[int, Shapes] = field(default_factory=dict)
    """Client -> the shapes of its arrays, where `Local.receives` makes them differ."""


def expected(phase: Phase, broadcast: Broadcast, local: Local, num_examples: dict[int, int]) -> Expected:
    """The reply to expect from clients that do `local` in answer to `broadcast`."""
    sent = shapes(broadcast.arrays)
    trained = local.trained(list(sent))
    initial = {
        c: shapes(local.receives(broadcast.arrays, c)) for c in num_examples if local.receives is not as_broadcast
    }
    arrays_of = {c: {name: theirs[name] for name in trained} for c, theirs in initial.items()}
    return Expected(phase, {name: sent[name] for name in trained}, local.reported(sent), num_examples, arrays_of)


def _fits(a: np.ndarray, wanted: Sequence[int]) -> bool:
    if a.ndim != len(wanted) or not all(w in (-1, s) for s, w in zip(a.shape, wanted, strict=True)):
        return False
    layout = wanted.layout if isinstance(wanted, GramShape) else None
    return (layout != "matrix" or a.shape[0] == a.shape[1]) and (layout != "half" or packed.is_half(a))


def _negative(a: np.ndarray, wanted: Sequence[int]) -> int:
    """Count the negative entries of a Gram's diagonal, which no sum of squares is; 0 of anything else."""
    if not isinstance(wanted, GramShape):
        return 0
    if wanted.layout != "diagonal":
        a = np.diagonal(a) if wanted.layout == "matrix" else packed.diagonal(a)
    return int((a < 0).sum())


def arrays_refusal(what: str, arrays: Arrays, wanted: Shapes, kind: type[np.floating[Any]] = np.float32) -> str | None:
    """The reason why arrays must not be merged, or None: names, types, shapes, values not finite, negative Grams."""
    if arrays.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
        return f"{what}: missing {missing[:3]}, not asked for {extra[:3]}"
    for name, a in arrays.items():
        if a.dtype not in (np.float32, np.float64):
            return f"{what} {name}: type {a.dtype}, not float32 or float64"
        if not _fits(a, wanted[name]):
            return f"{what} {name}: shape {a.shape}, not {tuple(wanted[name])}"
        with np.errstate(over="ignore"):  # a float64 that the state's float32 cannot hold is as bad as infinity
            finite = np.isfinite(a.astype(kind, copy=False))
        if not finite.all():
            return f"{what} {name}: {int((~finite).sum())} of {a.size} values are NaN or infinite"
        negative = _negative(a, wanted[name])
        if negative:
            return f"{what} {name}: {negative} entries of a Gram's diagonal are negative; no sum of squares is"
    return None


def refusal(update: ClientUpdate, wanted: Expected, already: Container[int]) -> str | None:
    """The reason why a reply must not be merged, or None.

    Args:
        already: clients whose replies to the same request were accepted before.
    """
    if update.client not in wanted.num_examples:
        return "was not asked in this phase"
    if update.phase != wanted.phase.index:
        return f"stale: answers phase {update.phase}, not {wanted.phase.index} ({wanted.phase})"
    if update.client in already:
        return "a second reply to the same request"
    if update.num_examples != wanted.num_examples[update.client]:
        return f"claims {update.num_examples} training samples, holds {wanted.num_examples[update.client]}"
    for name in COUNTED:
        if not 0 <= update.metrics.get(name, 0) < float("inf"):
            return f"metric {name} = {update.metrics[name]}: must be a finite number, not negative"
    return arrays_refusal("array", update.arrays, wanted.arrays_of.get(update.client, wanted.arrays)) or arrays_refusal(
        "statistic", update.statistics, wanted.statistics
    )
