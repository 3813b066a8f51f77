"""Classifiers in closed form from sums of features: class means, ridge regression, and transport to new features.

phi is a sample's feature vector (M,), y its class as a one-hot vector (C,). All that is needed of any number of samples
is G = sum phi phi^T, as its upper half, Q = sum y phi^T (C, M) and the counts n (C,). They add over clients, rounds and
tasks, so what is solved here is the same for every split of the data. Everything runs in float64.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from fcil.arrays import symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed

__all__ = [
    "FALLBACK", "GRID", "NEVER", "best_penalty", "biases", "class_means", "held_out_errors", "penalty_unit",
    "ridge_rows", "semidefinite", "solvable", "strongest_of_the_best", "transport", "transported",
]  # fmt: skip

NEVER = -1e30
"""The bias of a class without samples: its zero row would beat classes whose scores are negative."""
T = TypeVar("T")
GRID = tuple(10.0**k for k in range(2, -9, -1))
"""Penalties to choose from, in units of the mean of G's diagonal; the strongest first, which wins ties."""
ROWS = 1024
"""Rows of solutions that are multiplied by a held-out G at a time: unpacking it takes longer than a product."""
FALLBACK = 1e-2
"""The penalty, in the same unit, where no samples were held out to choose by."""


def class_means(class_sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean features of every class, (C, M); zero for a class without samples."""
    return np.asarray(class_sums / np.maximum(counts, 1)[:, None])


def biases(counts: np.ndarray, present: np.ndarray | float = 0.0) -> np.ndarray:
    """Biases of classes, (C,): `present` where a class has samples, and NEVER where it has none."""
    return np.where(counts > 0, present, NEVER)


def _factor(gram: np.ndarray, penalty: float, space: np.ndarray | None = None) -> tuple[np.ndarray, bool]:
    """Cholesky factor of G + penalty I, in the memory of one whole matrix, which may be given."""
    from scipy.linalg import cho_factor  # slow to import, and settings are checked without it

    matrix = packed.upper(gram, space)
    np.einsum("ii->i", matrix)[:] += penalty
    try:  # transposed it is in LAPACK's order, so that nothing is copied
        factor, lower = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise MergeError(
            f"G + {penalty:g} I of {len(matrix)} features is not positive definite in float64; raise method.penalty"
        ) from None
    return factor, lower


def semidefinite(gram: np.ndarray, slack: float) -> bool:
    """Tell whether G, packed as its upper half, has no eigenvalue below -slack; a zero G has none."""
    if not gram.any():
        return True
    try:
        _factor(gram, slack)
    except MergeError:
        return False
    return True


def ridge_rows(gram: np.ndarray, class_sums: np.ndarray, penalty: float, space: np.ndarray | None = None) -> np.ndarray:
    """Ridge regression: H^T = Q (G + penalty I)^-1, the minimiser of sum ||H^T phi - y||^2 + penalty ||H||^2.

    Args:
        gram: (M (M + 1) / 2,) upper half of G.
        class_sums: (C, M) Q.
        penalty: lambda, greater than zero.
        space: (M, M) memory to use, with zeros below its diagonal, as they are afterwards too.

    Returns:
        (C, M), zero in the rows of classes without samples.

    Raises:
        MergeError: the penalty is too small for this G.
    """
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve(_factor(gram, penalty, space), class_sums.T, check_finite=False).T)


def held_out_errors(
    solutions: Sequence[np.ndarray], gram: np.ndarray, class_sums: np.ndarray, count: float
) -> list[float]:
    """Squared errors, sum ||H^T phi - y||^2, of samples known by their sums: tr(H^T G H) - 2 tr(H^T Q) + n.

    Args:
        solutions: several H^T, (C, M) each, so many of which are multiplied by G at a time as have ROWS rows.
        gram: (M (M + 1) / 2,) upper half of G.
        class_sums: (C, M) Q.
        count: n, the number of samples.
    """
    errors: list[float] = []
    number = max(1, ROWS // len(class_sums))
    for begin in range(0, len(solutions), number):
        some = solutions[begin : begin + number]
        products = np.split(packed.times(np.concatenate(some), gram), len(some))
        for rows, product in zip(some, products, strict=True):
            errors.append(float(np.sum(product * rows) - 2 * np.sum(rows * class_sums) + count))
    return errors


def penalty_unit(gram: np.ndarray, held_out: np.ndarray) -> float:
    """The unit of GRID: the mean diagonal entry of both Gs together, or 1 where they are zero."""
    return float((packed.diagonal(gram) + packed.diagonal(held_out)).mean()) or 1.0


def best_penalty(
    gram: np.ndarray,
    class_sums: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray, float],
    grid: Iterable[float] = GRID,
) -> float:
    """Choose the penalty of the grid whose solution has the lowest held-out error.

    Args:
        gram: (M (M + 1) / 2,) upper half of G, of the samples that are not held out.
        class_sums: (C, M) Q of the same samples.
        held_out: G, Q and the number of the held-out samples.
        grid: in units of the mean diagonal entry of both Gs together; ties go to the first. Where nothing was held out,
            the penalty is FALLBACK in that unit.
    """
    if not held_out[2]:
        return FALLBACK * (float(packed.diagonal(gram).mean()) or 1.0)
    unit = penalty_unit(gram, held_out[0])
    penalties = [unit * share for share in grid]
    space = np.zeros((class_sums.shape[1],) * 2)
    solved = solvable(lambda penalty: ridge_rows(gram, class_sums, penalty, space), penalties)
    return penalties[int(np.argmin(held_out_errors(solved, *held_out)))]


def strongest_of_the_best(right: np.ndarray, count: float) -> int:
    """Choose among penalties, the strongest first, by the right answers of their heads on n held-out samples.

    The strongest one counts whose answers are within one standard error of the best, sqrt(right (n - right) / n): the
    rule of Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984. With a hundred samples
    penalties far apart are equal but for chance.

    >>> strongest_of_the_best(np.array([40.0, 47.0, 50.0, 51.0]), 100)
    1
    """
    best = float(right.max())
    return int(np.argmax(right >= best - np.sqrt(best * (count - best) / count))) if count else 0


def solvable(solve: Callable[[float], T], penalties: Sequence[float]) -> list[T]:
    """Solutions for penalties, the strongest first, down to the last that float64 can solve for.

    Sums that came as float32, of more features than samples, are not positive definite at the weakest penalties.

    Raises:
        MergeError: not even the first can be solved for.
    """
    solutions: list[T] = []
    for penalty in penalties:
        try:
            solutions.append(solve(penalty))
        except MergeError:
            if not solutions:
                raise
            break
    return solutions


def transport(cross: np.ndarray, gram: np.ndarray, strength: float) -> np.ndarray:
    """Fit the linear map from old features phi to new ones phi': T = (C + mu I) (G_o + mu I)^-1.

    Args:
        cross: (M, M) C = sum phi' phi^T.
        gram: (M (M + 1) / 2,) upper half of G_o = sum phi phi^T.
        strength: mu in units of the mean of G_o's diagonal. Towards infinity T goes to the identity.

    Returns:
        (M, M); the identity where there are no samples.
    """
    mu = strength * float(packed.diagonal(gram).mean())
    if mu == 0:
        return np.eye(len(cross))
    from scipy.linalg import cho_solve

    shifted = cross + mu * np.eye(len(cross))
    return np.asarray(cho_solve(_factor(gram, mu), shifted.T, check_finite=False).T)


def transported(transport_map: np.ndarray, gram: np.ndarray, class_sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transport sums to features T phi: T G T^T, as its upper half, and Q T^T."""
    return symmetric_half(packed.times(transport_map, gram) @ transport_map.T), class_sums @ transport_map.T
