"""Two networks that were trained apart: their hidden units matched, so that like is averaged with like.

Units are matched by the Hungarian method on a similarity of weights, of activations, or of both, as in MuDSC (Xu et
al., CVPR 2024, arXiv 2403.01753). PLeaS (Nasery et al., CVPR 2025, arXiv 2407.02447) merges only the most alike of
them, keeps the others apart, and fits merged units to the mean of both networks' activations by least squares.

Models that left one start and stayed near it match in the order they have: nothing is permuted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.errors import MergeError

__all__ = ["Mlp", "best_match", "cosine", "fitted", "match_heads", "merge_mlps", "mixed", "outputs"]


def best_match(similarity: np.ndarray) -> np.ndarray:
    """(n, n) similarity of unit i of A and unit j of B -> (n,) p, a bijection: unit p[i] of B goes with unit i of A.

    Raises:
        MergeError: not square, or not finite.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and settings are checked without it

    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise MergeError(f"units are matched one to one; a similarity of shape {similarity.shape} is not square")
    if not np.isfinite(similarity).all():
        raise MergeError("the similarity of units is infinite or NaN")
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(..., n, d) and (..., m, d) -> (..., n, m) cosines between rows; 0 to a row of zeros."""

    def unit(rows: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
        return np.asarray(np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0))

    return np.asarray(unit(left) @ unit(right).swapaxes(-1, -2))


def mixed(weights: np.ndarray, activations: np.ndarray | None, alpha: float) -> np.ndarray:
    """Alpha times the similarity of weights, the rest that of activations, where there is one."""
    return weights if activations is None else np.asarray(alpha * weights + (1 - alpha) * activations)


def match_heads(qk: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First units within every pair of heads, then heads: q and k of a head share an order, v has one of its own.

    Args:
        qk: (heads, heads, d, d) similarity of the query and key units of head i of A and head j of B.
        v: the same of the value units.

    Returns:
        The orders, (heads d,) each, of B's query and key rows and of its value rows.
    """
    heads, _, d, _ = qk.shape
    within = np.empty((2, heads, heads, d), np.int64)
    score = np.zeros((heads, heads))
    for part, similarity in enumerate((qk, v)):
        for i, j in np.ndindex(heads, heads):
            within[part, i, j] = best_match(similarity[i, j])
            score[i, j] += similarity[i, j][np.arange(d), within[part, i, j]].sum()
    partner = best_match(score)
    orders = [np.concatenate([j * d + part[i, j] for i, j in enumerate(partner)]) for part in within]
    return orders[0], orders[1]


def fitted(wb: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """The least squares weights nearest to those given, which stay as they are wherever the inputs say nothing.

    Args:
        wb: (out, in + 1) weights and biases.
        gram: (in + 1, in + 1) sum z z^T over inputs z with a 1 at their end.
        cross: (out, in + 1) sum y z^T over what is to come out.
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * max(values[-1], 0)
    basis = vectors[:, kept]
    return np.asarray(wb + (cross - wb @ gram) @ (basis / values[kept]) @ basis.T)


# ---- multilayer perceptrons ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mlp:
    """Linear layers with ReLU between them."""

    layers: tuple[np.ndarray, ...]
    """(out, in + 1) each: weights, and the bias as last column."""

    def permuted(self, orders: Sequence[np.ndarray]) -> "Mlp":
        """The same function with the units of hidden layer l, for the first few l, in the order `orders[l]`."""
        layers = list(self.layers)
        for i, order in enumerate(orders):
            layers[i] = layers[i][order]
            layers[i + 1] = layers[i + 1][:, [*order, -1]]
        return Mlp(tuple(layers))


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x))])


def outputs(network: Mlp, x: np.ndarray) -> list[np.ndarray]:
    """(samples, in) -> what each layer makes of it before its ReLU; the last one's is the network's output."""
    found = []
    for layer in network.layers:
        found.append(_with_ones(x) @ layer.T)
        x = np.maximum(found[-1], 0)
    return found


def _centred(x: np.ndarray) -> np.ndarray:
    return np.asarray((x - x.mean(0)).T)


def _matches(a: Mlp, b: Mlp, x: np.ndarray, alpha: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Hidden layer by hidden layer, the order of B's units, and how alike each is to its match in A."""
    orders: list[np.ndarray] = []
    alike: list[np.ndarray] = []
    for i, (mine, theirs) in enumerate(zip(outputs(a, x)[:-1], outputs(b, x)[:-1], strict=True)):
        aligned = b.permuted(orders)  # so that what comes in means the same in both
        weights = cosine(a.layers[i], aligned.layers[i])
        similarity = mixed(weights, cosine(_centred(mine), _centred(theirs)), alpha)
        orders.append(best_match(similarity))
        alike.append(similarity[np.arange(len(similarity)), orders[-1]])
    return orders, alike


@dataclass(frozen=True)
class _Units:
    """Which units of A and of B a merged layer's units stand for: (merged, n) of 0 and 1 each."""

    a: np.ndarray
    b: np.ndarray

    @classmethod
    def of(cls, alike: np.ndarray, budget: float) -> "_Units":
        """The most alike ones merged, then A's own, then B's own: `budget` n in all."""
        n = len(alike)
        order = np.argsort(-alike, kind="stable")
        count = round((2 - budget) * n)
        eye, merged, own = np.eye(n), np.sort(order[:count]), np.sort(order[count:])
        none = np.zeros((len(own), n))
        return cls(np.vstack([eye[merged], eye[own], none]), np.vstack([eye[merged], none, eye[own]]))

    @property
    def count(self) -> np.ndarray:
        """(merged,) networks that a unit stands for, 1 or 2."""
        return np.asarray(self.a.sum(1) + self.b.sum(1))

    def mean(self, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
        """Rows (n, ...) of A's and B's units -> rows (merged, ...)."""
        return np.asarray((self.a @ of_a + self.b @ of_b) / self.count[:, None])


def merge_mlps(a: Mlp, b: Mlp, x: np.ndarray, budget: float = 1.0, alpha: float = 0.0, fit: bool = True) -> Mlp:
    """PLeaS: one network in the place of two, its hidden layers `budget` times as wide.

    Args:
        x: (samples, in) unlabelled inputs that both networks are run on.
        budget: from 1, every unit is merged with its match, to 2, none is: both side by side, their outputs averaged.
        alpha: weight of the weights' similarity in the matching; activations have the rest.
        fit: merged units are fitted to the mean of both networks' activations; otherwise their weights are averaged.

    Raises:
        MergeError: layers that differ in shape, or a budget below 1 or above 2.
    """
    if [layer.shape for layer in a.layers] != [layer.shape for layer in b.layers]:
        raise MergeError("two networks are merged layer by layer, but the shapes of their layers differ")
    if not 1 <= budget <= 2:
        raise MergeError(f"budget = {budget:g}: must be from 1 (all units merged) to 2 (none)")
    orders, alike = _matches(a, b, x, alpha)
    b = b.permuted(orders)
    both = _Units(np.eye(x.shape[1]), np.eye(x.shape[1]))  # the input is the same for both
    last = _Units(*[np.eye(len(a.layers[-1]))] * 2)
    units = [both, *(_Units.of(each, budget) for each in alike), last]
    seen = [[x.T, *(z.T for z in outputs(network, x))] for network in (a, b)]
    layers = []
    for i, (mine, theirs) in enumerate(zip(a.layers, b.layers, strict=True)):
        into, out = units[i], units[i + 1]
        layer = np.column_stack([
            (out.a @ mine[:, :-1] @ into.a.T + out.b @ theirs[:, :-1] @ into.b.T) / out.count[:, None],
            out.mean(mine[:, -1:], theirs[:, -1:]),
        ])  # fmt: skip
        if fit:
            given = [s[i] if i == 0 else np.maximum(s[i], 0) for s in seen]
            z, y = _with_ones(into.mean(given[0], given[1]).T), out.mean(seen[0][i + 1], seen[1][i + 1])
            merged = out.count == 2
            layer[merged] = fitted(layer[merged], z.T @ z, y[merged] @ z)
        layers.append(layer)
    return Mlp(tuple(layers))
