"""Subspaces of layers' inputs, by which new changes are kept away from what earlier tasks need (GPM, FOT, DOLFIN).

A sketch Y = X Omega, (n, s), of inputs X, (n, samples), with Omega random, has about the column space of X, and
E[Y Y^T] = s X X^T. Sketches add over clients. Bases are orthonormal rows, (r, n), in float64.
"""

import numpy as np

__all__ = ["grown", "leading_directions", "outside"]


def outside(basis: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The part of rows, (m, n), that is orthogonal to a basis, (r, n): rows (I - U U^T), U being the basis' columns."""
    rows = rows.astype(np.float64)
    for _ in range(2):  # once more takes out what rounding has left
        rows = rows - (rows @ basis.T) @ basis
    return rows


def _directions(basis: np.ndarray, sketch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors of a sketch outside a basis, as rows, the largest first, and the values' squares.

    None that are only rounding: sketches and bases travel in float32, whose rounding leaves about 1e-7 of the sketch
    outside of a basis that holds all of it. So there are never more than the n - r that are orthogonal to the basis.
    """
    vectors, values, _ = np.linalg.svd(outside(basis, sketch.T).T, full_matrices=False)
    mask = values > 1e-6 * np.linalg.norm(sketch)
    return vectors.T[mask], np.square(values[mask])


def grown(basis: np.ndarray, sketch: np.ndarray, energy: float) -> np.ndarray:
    """Add to a basis the fewest directions with which it holds a share of the sketch's energy, ||U^T Y||^2 / ||Y||^2.

    Args:
        basis: (r, n), of no rows at first.
        sketch: (n, s).
        energy: the share, from 0 to 1.

    Returns:
        The basis, (r' >= r, n); its first r rows are as they were.
    """
    whole, held = (float(np.square(y, dtype=np.float64).sum()) for y in (sketch, basis @ sketch))
    directions, energies = _directions(basis, sketch)
    reached = held + np.concatenate([[0.0], np.cumsum(energies)])
    enough = reached >= energy * whole * (1 - 1e-12)
    count = int(enough.argmax()) if enough.any() else len(energies)
    return np.concatenate([basis, outside(basis, directions[:count])])


def leading_directions(basis: np.ndarray, sketch: np.ndarray, rank: int) -> np.ndarray:
    """The directions, (rank, n), in which a sketch, (n, s), is largest outside a basis; zero rows once none is left."""
    directions, _ = _directions(basis, sketch)
    directions_outside = outside(basis, directions[:rank])
    return np.concatenate([directions_outside, np.zeros((rank - len(directions_outside), sketch.shape[0]))])
