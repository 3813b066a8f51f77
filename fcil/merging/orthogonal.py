"""Rows that are orthogonal to earlier ones, for parts that are added to a model task by task."""

import numpy as np

from fcil.errors import MergeError

__all__ = ["gram_schmidt", "orthonormal_rows"]


def orthonormal_rows(old: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` orthonormal rows, (count, n), that are orthogonal to all rows of `old`, (m, n), whatever those are.

    Raises:
        MergeError: the space has not so many dimensions left.
    """
    drawn = rng.normal(size=(count, old.shape[1]))
    _, sizes, basis = np.linalg.svd(old.astype(np.float64), full_matrices=False)
    basis = basis[sizes > 1e-10 * sizes.max(initial=0.0)]
    if len(basis) + count > old.shape[1]:
        raise MergeError(f"{count} rows cannot be orthogonal to {len(basis)} others in {old.shape[1]} dimensions")
    for _ in range(2):  # once more takes out what rounding has left
        drawn -= drawn @ basis.T @ basis
    return np.asarray(np.linalg.qr(drawn.T)[0].T)


def gram_schmidt(old: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` rows, (count, n), by classical Gram-Schmidt against the rows of `old`, (m, n), and one another.

    From each drawn row v its projections on all rows before it are subtracted, each computed from v itself:
    v - sum_j (v u_j / u_j u_j) u_j. Where the old rows are not orthogonal, neither is the result; CODA-Prompt's public
    code does this after the old rows have been trained.
    """
    rows = [row for row in old.astype(np.float64) if row @ row > 1e-8]
    first = len(rows)
    for _ in range(count):
        drawn = rng.normal(size=old.shape[1])
        rows.append(drawn - sum((drawn @ row) / (row @ row) * row for row in rows))
    return np.stack([row / np.linalg.norm(row) for row in rows[first:]])
