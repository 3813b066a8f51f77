"""Generalised cross-validation of ridge regression from sums: no sample is held out and nothing more is sent.

GCV(lambda) = n RSS / (n - tr S)^2, where S maps targets to fitted values: Golub, Heath and Wahba, Technometrics 21(2),
1979. With H^T = Q (G + lambda I)^-1 and one-hot targets, sum ||y||^2 = n, and

    RSS  = sum ||y - H^T phi||^2 = n - sum(H^T * Q) - lambda ||H||^2,
    tr S = tr(G (G + lambda I)^-1) = M - lambda ||L^-1||^2,     L L^T = G + lambda I.

Literal transcription: `gcv_of_samples` in tests/reference_features.py.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.ridge import FALLBACK

__all__ = ["STEPS", "generalised_error", "least_generalised_error"]

STEPS = tuple(10.0 ** (k / 2) for k in range(4, -17, -1))
"""Penalties that are tried, in units of the mean of G's diagonal, in half decades, the strongest first."""
BEGIN = 6
MARGIN = 4.0
"""Errors of residuals and degrees of freedom in units of the machine epsilon times the condition, at most."""


def generalised_error(matrix: np.ndarray, class_sums: np.ndarray, count: float, penalty: float) -> float:
    """Estimate the squared error of a sample that was not fitted, from sums over n samples with one-hot targets.

    Args:
        matrix: (M, M) G in its upper triangle.
        class_sums: (C, M) Q.
        count: n.
        penalty: lambda, greater than zero.

    Returns:
        GCV; infinite where float64 cannot tell it: G + lambda I is not positive definite, or what the fit leaves, of
        the targets or of degrees of freedom, is less than rounding may have made.
    """
    from scipy.linalg import cho_solve, lapack

    shifted = matrix.T.copy("F")  # the upper triangle of rows is the lower one of columns, in LAPACK's order
    np.einsum("ii->i", shifted)[:] += penalty
    factor, failed = lapack.dpotrf(shifted, lower=1, clean=1, overwrite_a=1)
    if failed:
        return np.inf
    rows = cho_solve((factor, True), class_sums.T, check_finite=False).T
    residual = count - float(np.sum(rows * class_sums)) - penalty * float(np.sum(rows * rows))
    inverse, _ = lapack.dtrtri(factor, lower=1, overwrite_c=1)
    freedom = count - len(matrix) + penalty * float(np.einsum("ij,ij->", inverse, inverse))
    # Both are differences of larger numbers. Where rounding, at the condition of the factor, may have made as much as
    # is left, nothing is known: such an error must not look like a good one.
    rounding = MARGIN * np.finfo(np.float64).eps * float(np.trace(matrix)) / penalty
    is_determined = freedom > rounding * len(matrix) and residual > rounding * count
    return count * residual / freedom**2 if is_determined else np.inf


def least_generalised_error(gram: np.ndarray, class_sums: np.ndarray, count: float) -> tuple[float, float]:
    """Choose a penalty whose generalised error is a minimum, by descent from a tenth of G's mean diagonal.

    The search goes to the better neighbour among STEPS until none is better: three or four factorisations, as a rule,
    in place of one for each penalty. Where several minima exist it may end in another than the least.

    Args:
        gram: (M (M + 1) / 2,) upper half of G.
        class_sums: (C, M) Q.
        count: n, the number of samples.

    Returns:
        (the penalty, its error); FALLBACK of G's mean diagonal, and an infinite error, where there are no samples.

    Raises:
        MergeError: from a tenth of G's mean diagonal upwards no penalty has a finite error.
    """
    unit = float(packed.diagonal(gram).mean()) or 1.0
    if not count:
        return FALLBACK * unit, np.inf
    matrix = packed.upper(gram)

    @cache
    def error(step: int) -> float:
        return generalised_error(matrix, class_sums, count, unit * STEPS[step])

    best = next((step for step in range(BEGIN, -1, -1) if np.isfinite(error(step))), None)
    if best is None:
        raise MergeError(
            f"no penalty could be chosen for {len(matrix)} features of {count:g} samples; set method.penalty to a "
            "number"
        )
    best = _descended(error, best)
    return unit * STEPS[best], error(best)


def _descended(error: Callable[[int], float], best: int) -> int:
    """Go from a step to its better neighbour until none is better; ties stay where they are."""
    while True:
        near = [step for step in (best, best - 1, best + 1) if 0 <= step < len(STEPS)]
        nearest = min(near, key=error)
        if nearest == best:
            return best
        best = nearest
