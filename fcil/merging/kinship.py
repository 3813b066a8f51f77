"""Merge pairs of models greedily by their kinship, after Hu et al., arXiv 2410.12613, without looking at any data.

Every model that the search visits is a linear combination of the experts' changes in each layer, so the search runs on
coefficients (layers, n) and on inner products (layers, n, n): no change is formed before the final one.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fcil.merging.similarity import cosines

__all__ = ["evolve", "slerp"]

PARALLEL = 1 - 1e-6


def slerp(left: np.ndarray, right: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """Interpolate by SLERP at 1/2, layer by layer: (x + y) / (2 cos(angle / 2)), and (x + y) / 2 if they are parallel.

    The angle is that between their directions, the sum that of the models as they are: of two models of one length the
    result has the same length and is half way along the arc.

    Args:
        left: (layers, n) coefficients.
        right: (layers, n).
        grams: (layers, n, n) inner products of the n changes.
    """

    def dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("li,lij,lj->l", x, grams, y))

    squares = dot(left, left) * dot(right, right)
    lengths = np.sqrt(np.maximum(squares, 0))
    cosine = np.divide(dot(left, right), lengths, out=np.ones_like(lengths), where=lengths > 0)
    straight = np.abs(cosine) > PARALLEL
    half_angle = np.sqrt((1 + np.where(straight, 0, cosine)) / 2)  # cosine of half the angle
    return np.asarray((left + right) * np.where(straight, 0.5, 0.5 / half_angle)[:, None])


@dataclass
class _Pool:
    """The models that the search has visited, the experts first."""

    grams: np.ndarray
    models: list[np.ndarray]

    def kinships(self) -> np.ndarray:
        """Cosines between all models, (models, models)."""
        m = np.array(self.models)
        return cosines(np.einsum("ali,lij,blj->ab", m, self.grams, m, optimize=True))


def _ranked(akin: np.ndarray) -> list[int]:
    """Rank models by their smallest kinship to an expert, best first; ties by their mean kinship.

    Kinships are rounded, so that the order of the experts does not decide where two are each other's least akin.
    """
    keys = np.round(akin, 10)
    return [int(i) for i in np.lexsort((-keys.mean(1), -keys.min(1)))]


def evolve(grams: np.ndarray, top: int, generations: int, near: float) -> np.ndarray:
    """Merge pairs of the `top` best models, generation by generation, until the best stay the same.

    The published loop ranks models by their accuracy, on data that a class-incremental server must not have. Here a
    model is as good as its smallest kinship to an expert, so that no expert is left out. As published,
    each generation also merges the best model with the one least akin to it, and pairs that are nearly the same are
    not merged.

    Args:
        grams: (layers, n, n) inner products of the experts' changes.
        top: number of models that may become parents.
        generations: largest number of generations.
        near: kinship from which on a pair is not merged.

    Returns:
        (layers, n) coefficients of the best model.
    """
    n = grams.shape[1]
    pool = _Pool(grams, [np.tile(row, (len(grams), 1)) for row in np.eye(n)])
    parents: list[int] = []
    merged_pairs: set[tuple[int, ...]] = set()
    for generation in range(generations + 1):
        akin = pool.kinships()
        ranked = _ranked(akin[:, :n])
        best, leaders = ranked[0], ranked[:top]
        if leaders == parents or generation == generations:
            break
        parents = leaders
        pairs = [*combinations(sorted(parents), 2), tuple(sorted((best, int(np.argmin(akin[best])))))]
        for pair in pairs:
            if pair not in merged_pairs and akin[pair] < near:
                merged_pairs.add(pair)
                pool.models.append(slerp(pool.models[pair[0]], pool.models[pair[1]], grams))
    return pool.models[best]
