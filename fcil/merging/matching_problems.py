"""Match many named matrices: sum the moments of each over clients, and solve for all of them from the sums.

Each matrix is a problem of its own (`fcil.merging.response_matching`); here they share names, threads and storage.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays
from fcil.merging.response_matching import Moments, moments, solve
from fcil.threads import map_in_threads

__all__ = ["Problem", "match_all", "mean_problem", "sum_all"]


@dataclass(frozen=True)
class Problem:
    """Response matching of one matrix: minimise over Theta  sum_i || (Theta - Theta_i) X_i ||^2."""

    start: np.ndarray
    """(out, in): the matrix that all clients started from."""
    thetas: Sequence[np.ndarray]
    """Theta_i of each client, (out, in)."""
    grams: Iterable[np.ndarray]
    """G_i = X_i X_i^T of each client: a packed upper half, (in (in + 1) / 2,), if `whole`; else a diagonal, (in,)."""
    whole: bool


def mean_problem(start: np.ndarray, thetas: Sequence[np.ndarray], weights: Sequence[float]) -> Problem:
    """Write the weighted mean of vectors as a problem: the match under inputs of constant energy."""
    energies = [np.full(start.shape, weight) for weight in weights]
    return Problem(start[None], [theta[None] for theta in thetas], energies, whole=False)


def sum_all(problems: Mapping[str, Problem], parallel: bool) -> dict[str, np.ndarray]:
    """Sum the moments of every problem into one flat table, in float64: the tables of two groups of clients add.

    Args:
        parallel: work on several problems at a time. That pays where Grams are large; rounds with small ones consist
            of too many short steps.
    """

    def summed(name: str) -> dict[str, np.ndarray]:
        p = problems[name]
        return moments(p.start, p.thetas, p.grams, p.whole).arrays(name)

    tables = map_in_threads(summed, problems) if parallel else map(summed, problems)
    return {key: a for table in tables for key, a in table.items()}


def match_all(starts: Arrays, sums: Arrays, parallel: bool) -> dict[str, np.ndarray]:
    """Solve for Theta* of every matrix, float32 in the shape of its start, from the sums over all clients."""

    def solved(name: str) -> np.ndarray:
        return solve(np.atleast_2d(starts[name]), Moments.read(sums, name))

    thetas = map_in_threads(solved, starts) if parallel else map(solved, starts)
    return {n: theta.astype(np.float32).reshape(starts[n].shape) for n, theta in zip(starts, thetas, strict=True)}
