"""MaTS: models are matched in their task-parameter subspaces, by conjugate gradients (arXiv 2312.04339).

    sum_i S_i W G_i = sum_i S_i W_i G_i

with G_i = sum x x^T of a layer's inputs and S_i = sum g g^T of the loss's gradients at its outputs: together the
layer's block of the Fisher information, as K-FAC has it. With all S_i the identity it is RegMean. A sum of Kronecker
products is not one of them, so that every model's Grams are needed to the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.errors import MergeError
from fcil.merging import halves
from fcil.merging.lowrank import LowRank

__all__ = ["Solution", "conjugate_gradients", "kronecker_match"]


@dataclass(frozen=True)
class Solution:
    """Where conjugate gradients stopped."""

    x: np.ndarray
    iterations: int
    residual: float
    """Norm of what is left, relative to that of the right-hand side."""


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, start: np.ndarray, diagonal: np.ndarray,
    iterations: int, tolerance: float,
) -> Solution:  # fmt: skip
    """Solve apply(x) = right for a symmetric positive semi-definite map, whose range holds `right`.

    Args:
        start: what to begin with; in directions that `apply` takes to zero it stays.
        diagonal: of the map, for Jacobi's preconditioner; where it is zero nothing moves.
        tolerance: stop at this residual relative to `right`, or after `iterations`.
    """
    inverse = np.divide(1.0, diagonal, out=np.zeros_like(right), where=diagonal > 0)
    x, size = start.copy(), float(np.linalg.norm(right))
    r = right - apply(x)
    z = inverse * r
    p, rz = z, float(np.vdot(r, z))
    done = 0
    while done < iterations and rz > 0 and np.linalg.norm(r) > tolerance * size:
        moved = apply(p)
        curvature = float(np.vdot(p, moved))
        if curvature <= 0:  # only rounding is left
            break
        x += rz / curvature * p
        r -= rz / curvature * moved
        z = inverse * r
        rz, before = float(np.vdot(r, z)), rz
        p = z + rz / before * p
        done += 1
    return Solution(x, done, float(np.linalg.norm(r)) / size if size else 0.0)


def kronecker_match(
    changes: Sequence[LowRank], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], iterations: int = 100,
    tolerance: float = 1e-6,
) -> Solution:  # fmt: skip
    """W of sum_i S_i W G_i = sum_i S_i W_i G_i, (out, in).

    Begins with the solution for the diagonals of S_i and G_i, a mean weighted entry by entry. Where the data say
    nothing that is kept, so that identical models are a fixed point at any rank of the Grams, but
    for entries without energy in any: those get no change, as RegMean's columns.

    Args:
        changes: W_i = B_i A_i.
        inputs: upper halves of G_i, (in (in + 1) / 2,).
        outputs: upper halves of S_i, (out (out + 1) / 2,).

    Raises:
        MergeError: nothing to merge, or sizes that do not fit.
    """
    if not changes or not len(changes) == len(inputs) == len(outputs):
        raise MergeError(f"MaTS needs two Grams for each model; got {len(changes)}, {len(inputs)}, {len(outputs)}")
    for i, (change, g, s) in enumerate(zip(changes, inputs, outputs, strict=True)):
        if change.shape != changes[0].shape or change.shape != (halves.side(s), halves.side(g)):
            raise MergeError(f"model {i}: {change.shape} does not fit Grams of {halves.side(s)} and {halves.side(g)}")

    # unpacked once: every step multiplies by all of them
    pairs = [(halves.whole(s), halves.whole(g)) for s, g in zip(outputs, inputs, strict=True)]

    def apply(w: np.ndarray) -> np.ndarray:
        acc = np.zeros_like(w)
        for s, g in pairs:
            acc += s @ w @ g
        return acc

    shape = changes[0].shape
    right, diagonal, weighted = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for change, s, g in zip(changes, outputs, inputs, strict=True):
        right += halves.times(change.b.T, s).T @ halves.times(change.a, g)
        s_diagonal, g_diagonal = (halves.diagonal(half).astype(np.float64) for half in (s, g))
        diagonal += np.outer(s_diagonal, g_diagonal)
        weighted += (s_diagonal[:, None] * change.b) @ (change.a * g_diagonal)
    start = np.divide(weighted, diagonal, out=np.zeros(shape), where=diagonal > 0)
    return conjugate_gradients(apply, right, start, diagonal, iterations, tolerance)
