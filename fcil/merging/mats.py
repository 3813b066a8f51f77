"""MaTS: models are matched in their task-parameter subspaces, by conjugate gradients (arXiv 2312.04339).

    sum_i S_i W G_i = sum_i S_i W_i G_i

with G_i = sum x x^T of a layer's inputs and S_i = sum g g^T of the loss's gradients at its outputs: together the
layer's block of the Fisher information, as K-FAC has it. With all S_i the identity it is RegMean. A sum of Kronecker
products is not one of them, so that every model's Grams are needed to the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import added
from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.lowrank import LowRank

__all__ = ["Solution", "conjugate_gradients", "kronecker_match"]

RIDGE = 1e-3
"""Added to Grams of unit diagonal before they are inverted: it only has to keep a preconditioner positive."""


@dataclass(frozen=True)
class Solution:
    """Where conjugate gradients stopped."""

    x: np.ndarray
    iterations: int
    residual: float
    """Norm of what is left, relative to that of the right-hand side."""


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, start: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray], iterations: int, tolerance: float,
) -> Solution:  # fmt: skip
    """Solve apply(x) = right for a symmetric positive semi-definite map, whose range holds `right`.

    Args:
        start: what to begin with.
        precondition: about the inverse of `apply`, symmetric and positive; where it is zero nothing moves.
        tolerance: stop at this residual relative to `right`, or after `iterations`.
    """
    x, size = start.copy(), float(np.linalg.norm(right))
    r = right - apply(x)
    z = precondition(r)
    p, rz = z, float(np.vdot(r, z))
    done = 0
    while done < iterations and rz > 0 and np.linalg.norm(r) > tolerance * size:
        moved = apply(p)
        curvature = float(np.vdot(p, moved))
        if curvature <= 0:  # only rounding is left
            break
        x += rz / curvature * p
        r -= rz / curvature * moved
        z = precondition(r)
        rz, before = float(np.vdot(r, z)), rz
        p = z + rz / before * p
        done += 1
    return Solution(x, done, float(np.linalg.norm(r)) / size if size else 0.0)


def _inverse(gram: np.ndarray) -> np.ndarray:
    """(n, n) of about the inverse of a Gram, given as its upper half, in units of its diagonal; zero without energy."""
    from scipy.linalg import cho_factor, cho_solve  # slow to import, and settings are checked without it

    energy = packed.diagonal(gram)
    scale = np.zeros_like(energy)
    scale[energy > 0] = energy[energy > 0] ** -0.5
    unit = packed.whole(gram) * scale * scale[:, None] + RIDGE * np.eye(len(scale))
    return np.asarray(cho_solve(cho_factor(unit, overwrite_a=True), np.diag(scale)) * scale[:, None])


def kronecker_match(
    changes: Sequence[LowRank], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], iterations: int = 100,
    tolerance: float = 1e-6,
) -> Solution:  # fmt: skip
    """W of sum_i S_i W G_i = sum_i S_i W_i G_i, (out, in).

    Begins with the solution for the diagonals of S_i and G_i, a mean weighted entry by entry, so that identical models
    are a fixed point at any rank of the Grams; entries without energy in any get no change, as RegMean's columns. The
    preconditioner is r -> (sum_i S_i)^-1 r (sum_i G_i)^-1, exact where all models have the same Grams: on layers of
    ViTs it takes tens of steps where a hundred with Jacobi's are not enough.

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
        if change.shape != changes[0].shape or change.shape != (packed.side(s), packed.side(g)):
            raise MergeError(f"model {i}: {change.shape} does not fit Grams of {packed.side(s)} and {packed.side(g)}")

    # unpacked once: every step multiplies by all of them
    pairs = [(packed.whole(s), packed.whole(g)) for s, g in zip(outputs, inputs, strict=True)]

    def apply(w: np.ndarray) -> np.ndarray:
        acc = np.zeros_like(w)
        for s, g in pairs:
            acc += s @ w @ g
        return acc

    shape = changes[0].shape
    right, diagonal, weighted = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for change, s, g in zip(changes, outputs, inputs, strict=True):
        right += packed.times(change.b.T, s).T @ packed.times(change.a, g)
        s_diagonal, g_diagonal = (packed.diagonal(half).astype(np.float64) for half in (s, g))
        diagonal += np.outer(s_diagonal, g_diagonal)
        weighted += (s_diagonal[:, None] * change.b) @ (change.a * g_diagonal)
    start = np.divide(weighted, diagonal, out=np.zeros(shape), where=diagonal > 0)
    left, on_inputs = (_inverse(added(grams)) for grams in (outputs, inputs))
    return conjugate_gradients(apply, right, start, lambda r: left @ r @ on_inputs, iterations, tolerance)
