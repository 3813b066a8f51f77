"""MaTS: match models in their task-parameter subspaces by conjugate gradients (Tam et al., arXiv 2312.04339).

    sum_i S_i W G_i = sum_i S_i W_i G_i

with G_i = sum x x^T of a layer's inputs and S_i = sum g g^T of the loss's gradients at its outputs: together the
layer's block of the Fisher information, as K-FAC has it. With all S_i the identity it is RegMean. A sum of Kronecker
products is not a Kronecker product, so every model's Grams are needed to the end. Literal transcription:
`tests/reference_peers.py`.
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
"""Added to the diagonal of Grams, scaled to 1, before they are inverted: it keeps the preconditioner positive."""


@dataclass(frozen=True)
class Solution:
    """The point at which conjugate gradients stopped."""

    x: np.ndarray
    iterations: int
    residual: float
    """Norm of the residual, relative to that of the right-hand side."""


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, start: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray], iterations: int, tolerance: float,
) -> Solution:  # fmt: skip
    """Solve apply(x) = right for a symmetric positive semi-definite map, whose range holds `right`.

    Args:
        start: the first iterate.
        precondition: roughly the inverse of `apply`, symmetric and positive; where it is zero nothing moves.
        tolerance: relative residual at which to stop, if not after `iterations`.
    """
    x, size = start.copy(), float(np.linalg.norm(right))
    r = right - apply(x)
    z = precondition(r)
    p, rz = z, float(np.vdot(r, z))
    steps = 0
    while steps < iterations and rz > 0 and np.linalg.norm(r) > tolerance * size:
        applied = apply(p)
        curvature = float(np.vdot(p, applied))
        if curvature <= 0:  # only rounding is left
            break
        x += rz / curvature * p
        r = r - rz / curvature * applied  # not in place: `precondition` may have given r itself back
        z = precondition(r)
        rz, previous = float(np.vdot(r, z)), rz
        p = z + rz / previous * p
        steps += 1
    return Solution(x, steps, float(np.linalg.norm(r)) / size if size else 0.0)


def _inverse(gram: np.ndarray) -> np.ndarray:
    """Roughly invert a Gram, given as its upper half, to (n, n); rows of features without energy are zero."""
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
    """Solve sum_i S_i W G_i = sum_i S_i W_i G_i for W, (out, in).

    It begins with the solution for the diagonals of S_i and G_i, a mean weighted entry by entry, so that identical
    models are a fixed point at any rank of the Grams; entries without energy in any model get no change, as RegMean's
    columns. The preconditioner is r -> (sum_i S_i)^-1 r (sum_i G_i)^-1, exact where all models have the same Grams: on
    layers of ViTs it needs tens of steps where a hundred with Jacobi's are not enough.

    Args:
        changes: W_i = B_i A_i.
        inputs: upper halves of G_i, (in (in + 1) / 2,).
        outputs: upper halves of S_i, (out (out + 1) / 2,).

    Raises:
        MergeError: there is nothing to merge, or sizes do not fit.
    """
    if not changes or not len(changes) == len(inputs) == len(outputs):
        raise MergeError(f"MaTS needs two Grams for each model; got {len(changes)}, {len(inputs)}, {len(outputs)}")
    for i, (change, g, s) in enumerate(zip(changes, inputs, outputs, strict=True)):
        if change.shape != changes[0].shape or change.shape != (packed.side(s), packed.side(g)):
            raise MergeError(f"model {i}: {change.shape} does not fit Grams of {packed.side(s)} and {packed.side(g)}")

    # unpacked once, since every step multiplies by all of them
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
    on_outputs, on_inputs = (_inverse(added(grams)) for grams in (outputs, inputs))
    return conjugate_gradients(apply, right, start, lambda r: on_outputs @ r @ on_inputs, iterations, tolerance)
