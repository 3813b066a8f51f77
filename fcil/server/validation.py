"""Checks every client's reply before it touches the state; a bad one is refused whole."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from fcil.arrays import Arrays, shapes
from fcil.merging import packed
from fcil.method import Broadcast, ClientUpdate, GramShape, Local, Phase, Shapes, as_broadcast

__all__ = ["Expected", "arrays_refusal", "expected", "refusal"]


COUNTED = ("images", "peak_memory_bytes", "reused", "cached", "kept_bytes")
"""Metrics that enter the run's totals and figures; all others are for the records only."""
FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
"""Types that arrays may have; looked up as a set, since every array of every client is."""
LARGEST = 2.0**53
"""The largest metric in the totals: above it, adding 1 to a float changes nothing."""
MOST_METRICS, LONGEST_NAME = 1000, 200
"""Bounds on what a client may have written into the records: number of metrics, characters of a name."""
ASYMMETRY = 1e-3
"""How far from symmetric a whole Gram matrix may be, in units of its largest entry; rounding stays far below."""


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
    if a.shape != tuple(wanted) and (
        a.ndim != len(wanted) or not all(w in (-1, s) for s, w in zip(a.shape, wanted, strict=True))
    ):
        return False
    layout = wanted.layout if isinstance(wanted, GramShape) else None
    return (layout != "matrix" or a.shape[0] == a.shape[1]) and (layout != "half" or packed.is_half(a))


def _no_gram(a: np.ndarray, wanted: GramShape) -> str | None:
    """The reason why no sum x x^T has these entries, or None: its diagonal is negative, or it is not symmetric."""
    diagonal = a
    if wanted.layout != "diagonal":
        diagonal = np.diagonal(a) if wanted.layout == "matrix" else packed.diagonal(a)
    if negative := int((diagonal < 0).sum()):
        return f"{negative} entries of a Gram's diagonal are negative; no sum of squares is"
    if wanted.layout == "matrix" and a.size:
        apart = np.abs(np.subtract(a, a.T, dtype=np.float64)).max()
        if apart > ASYMMETRY * np.abs(a).max():
            return f"a Gram matrix is symmetric, and entries of this one differ from their mirror images by {apart:.3g}"
    return None


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _finite(a: np.ndarray, kind: type[np.floating[Any]]) -> np.ndarray:
    """Tell which values are finite as `kind`: one that the state's float32 cannot hold is as bad as infinity."""
    if a.dtype == kind:
        return np.isfinite(a)  # type: ignore[no-any-return]
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(a.astype(kind)))


def arrays_refusal(what: str, arrays: Arrays, wanted: Shapes, kind: type[np.floating[Any]] = np.float32) -> str | None:
    """The reason why arrays must not be merged, or None: names, types, shapes, values not finite, negative Grams."""
    if arrays.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
        return f"{what}: missing {missing[:3]}, not asked for {extra[:3]}"
    for name, a in arrays.items():
        if not _is_array(a):
            return f"{what} {name}: a {type(a).__name__}, not an array"
        if a.dtype not in FLOATS:
            return f"{what} {name}: type {a.dtype}, not float32 or float64"
        if not _fits(a, wanted[name]):
            return f"{what} {name}: shape {a.shape}, not {tuple(wanted[name])}"
        if not_finite := a.size - int(np.count_nonzero(_finite(a, kind))):
            return f"{what} {name}: {not_finite} of {a.size} values are NaN or infinite"
        layout = wanted[name]
        if isinstance(layout, GramShape) and (reason := _no_gram(a, layout)):
            return f"{what} {name}: {reason}"
    return None


def _is_number(value: object) -> bool:
    return type(value) in (float, int) or isinstance(value, Real)


def _metrics_refusal(metrics: Mapping[str, Any]) -> str | None:
    """The reason why metrics must not get into records and totals, or None; other than COUNTED may be NaN."""
    if len(metrics) > MOST_METRICS or any(len(name) > LONGEST_NAME for name in metrics):
        return f"metrics: more than {MOST_METRICS}, or a name of more than {LONGEST_NAME} characters"
    for name, value in metrics.items():
        if not _is_number(value):
            return f"metric {name}: a {type(value).__name__}, not a number"
        if name in COUNTED and not 0 <= value <= LARGEST:
            return f"metric {name} = {value}: must be a number from 0 to {LARGEST:.0f}"
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
    return (
        _metrics_refusal(update.metrics)
        or arrays_refusal("array", update.arrays, wanted.arrays_of.get(update.client, wanted.arrays))
        or arrays_refusal("statistic", update.statistics, wanted.statistics)
    )
