"""Greedy pairwise merging guided by kinship, after Hu et al., arXiv 2410.12613, without looking at any data.

Every model that ever comes up is a linear combination of the experts' changes in each layer, so the search runs on
coefficients (layers, n) and on inner products (layers, n, n): no change is formed before the last one.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fcil.merging.similarity import cosines

__all__ = ["evolve", "slerp"]

PARALLEL = 1 - 1e-6


def slerp(left: np.ndarray, right: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """SLERP at 1/2, layer by layer: (x + y) / (2 cos(angle / 2)), and (x + y) / 2 where they are parallel.

    The angle is that between their directions, the sum that of the models as they are: of two equally long ones the
    result is as long and half way along the arc.

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
    half_angle = np.sqrt((1 + np.where(straight, 0, cosine)) / 2)  # cos of half of it
    return np.asarray((left + right) * np.where(straight, 0.5, 0.5 / half_angle)[:, None])


@dataclass
class _Pool:
    """Models that came up, the experts first."""

    grams: np.ndarray
    models: list[np.ndarray]

    def kinships(self) -> np.ndarray:
        """(models, models)."""
        m = np.array(self.models)
        return cosines(np.einsum("ali,lij,blj->ab", m, self.grams, m, optimize=True))


def _ranked(akin: np.ndarray) -> list[int]:
    """Models by their smallest kinship to an expert, best first; two that share it by their mean kinship.

    Rounded, so that the order of the experts does not decide where two of them are each other's least akin.
    """
    keys = np.round(akin, 10)
    return [int(i) for i in np.lexsort((-keys.mean(1), -keys.min(1)))]


def evolve(grams: np.ndarray, top: int, generations: int, near: float) -> np.ndarray:
    """Merge pairs of the `top` best models, generation by generation, until the best stay the same.

    The published loop ranks models by their accuracy, on data that a class-incremental server must not have. Here a
    model is as good as its kinship to that expert which it is least akin to: nobody is to be left out. As published,
    each generation also merges the best model with the one least akin to it, and pairs that are nearly the same are
    not merged.

    Args:
        grams: (layers, n, n) inner products of the experts' changes.
        top: models that may become parents.
        generations: at most.
        near: kinship from which on a pair is not worth merging.

    Returns:
        (layers, n) coefficients of the best model.
    """
    n = grams.shape[1]
    pool = _Pool(grams, [np.tile(row, (len(grams), 1)) for row in np.eye(n)])
    parents: list[int] = []
    made: set[tuple[int, ...]] = set()
    for generation in range(generations + 1):
        akin = pool.kinships()
        ranked = _ranked(akin[:, :n])
        best, chosen = ranked[0], ranked[:top]
        if chosen == parents or generation == generations:
            break
        parents = chosen
        pairs = [*combinations(sorted(parents), 2), tuple(sorted((best, int(np.argmin(akin[best])))))]
        for pair in pairs:
            if pair not in made and akin[pair] < near:
                made.add(pair)
                pool.models.append(slerp(pool.models[pair[0]], pool.models[pair[1]], grams))
    return pool.models[best]
