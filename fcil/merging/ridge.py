"""Classifiers in closed form from sums of features: class means, ridge regression, and their way to other features.

phi is a sample's feature vector (M,), y its class as a one-hot vector (C,). All that is needed of any number of samples
is G = sum phi phi^T, as its upper half, Q = sum y phi^T (C, M) and the counts n (C,). They add over clients, rounds and
tasks, so what is solved here is the same for every split of the data. Everything runs in float64.
"""

from collections.abc import Iterable

import numpy as np

from fcil.arrays import symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed

__all__ = [
    "FALLBACK", "GRID", "NEVER", "best_penalty", "biases", "class_means", "held_out_error", "ridge_rows", "transport",
    "transported",
]  # fmt: skip

NEVER = -1e30
"""The bias of a class without samples: its zero row would beat classes whose scores are negative."""
GRID = tuple(10.0**k for k in range(2, -9, -1))
"""Penalties to choose from, in units of the mean of G's diagonal; the strongest first, which wins ties."""
FALLBACK = 1e-2
"""The penalty in that unit where nothing was held out to choose by."""


def class_means(class_sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(C, M) means; zero for a class without samples."""
    return np.asarray(class_sums / np.maximum(counts, 1)[:, None])


def biases(counts: np.ndarray, present: np.ndarray | float = 0.0) -> np.ndarray:
    """(C,) biases: `present` where a class has samples, and NEVER where it has none."""
    return np.where(counts > 0, present, NEVER)


def _factor(gram: np.ndarray, penalty: float) -> tuple[np.ndarray, bool]:
    """Cholesky of G + penalty I in the place of one whole matrix."""
    from scipy.linalg import cho_factor  # slow to import, and settings are checked without it

    matrix = packed.upper(gram)
    np.einsum("ii->i", matrix)[:] += penalty
    try:  # transposed it is in LAPACK's order, so that nothing is copied
        factor, lower = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise MergeError(
            f"G + {penalty:g} I of {len(matrix)} features is not positive definite in float64; raise method.penalty"
        ) from None
    return factor, lower


def ridge_rows(gram: np.ndarray, class_sums: np.ndarray, penalty: float) -> np.ndarray:
    """H^T = Q (G + penalty I)^-1, the minimiser of sum ||H^T phi - y||^2 + penalty ||H||^2.

    Args:
        gram: (M (M + 1) / 2,) upper half of G.
        class_sums: (C, M) Q.
        penalty: lambda, greater than zero.

    Returns:
        (C, M), zero in the rows of classes without samples.

    Raises:
        MergeError: the penalty is too small for this G.
    """
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve(_factor(gram, penalty), class_sums.T, check_finite=False).T)


def held_out_error(rows: np.ndarray, gram: np.ndarray, class_sums: np.ndarray, count: float) -> float:
    """Sum ||H^T phi - y||^2 over samples of which only the sums are known: tr(H^T G H) - 2 tr(H^T Q) + n.

    Args:
        rows: (C, M) H^T.
        gram: (M (M + 1) / 2,) upper half of G.
        class_sums: (C, M) Q.
        count: n, the number of samples.
    """
    return float(np.sum(packed.times(rows, gram) * rows) - 2 * np.sum(rows * class_sums) + count)


def best_penalty(
    gram: np.ndarray, class_sums: np.ndarray, held: tuple[np.ndarray, np.ndarray, float], grid: Iterable[float] = GRID
) -> float:
    """The penalty of the grid whose solution has the lowest held-out error.

    Args:
        gram: (M (M + 1) / 2,) upper half of G, of the samples that are not held out.
        class_sums: (C, M) their Q.
        held: G, Q and the number of the samples that are.
        grid: in units of the mean of the diagonal of both Gs; ties go to the first. Where nothing was held out there is
            nothing to choose by: FALLBACK of that unit.
    """
    if not held[2]:
        return FALLBACK * (float(packed.diagonal(gram).mean()) or 1.0)
    unit = float((packed.diagonal(gram) + packed.diagonal(held[0])).mean()) or 1.0
    penalties = [unit * share for share in grid]
    errors = [held_out_error(ridge_rows(gram, class_sums, penalty), *held) for penalty in penalties]
    return penalties[int(np.argmin(errors))]


def transport(cross: np.ndarray, gram: np.ndarray, strength: float) -> np.ndarray:
    """T = (C + mu I) (G_o + mu I)^-1, which answers old features phi with new ones phi' on the samples at hand.

    Args:
        cross: (M, M) C = sum phi' phi^T.
        gram: (M (M + 1) / 2,) upper half of G_o = sum phi phi^T.
        strength: mu in units of the mean of G_o's diagonal. Towards infinity T goes to the identity.

    Returns:
        (M, M); the identity where no sample has said anything.
    """
    mu = strength * float(packed.diagonal(gram).mean())
    if mu == 0:
        return np.eye(len(cross))
    from scipy.linalg import cho_solve

    shifted = cross + mu * np.eye(len(cross))
    return np.asarray(cho_solve(_factor(gram, mu), shifted.T, check_finite=False).T)


def transported(carry: np.ndarray, gram: np.ndarray, class_sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T G T^T, as its upper half, and Q T^T: the sums of samples whose features have become T phi."""
    return symmetric_half(packed.times(carry, gram) @ carry.T), class_sums @ carry.T
