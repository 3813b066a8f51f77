"""Match the hidden units of two networks that were trained apart, so that units that do the same are averaged.

Units are matched by the Hungarian method on a similarity of weights, of activations, or of both, as in MuDSC (Xu et
al., CVPR 2024, arXiv 2403.01753). PLeaS (Nasery et al., CVPR 2025, arXiv 2407.02447) merges only the most similar
pairs, keeps the other units apart, and fits merged units to the mean of both networks' activations by least squares.

Models that were fine-tuned from one start and stayed near it match in the order they have: nothing is permuted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.errors import MergeError

__all__ = ["Mlp", "best_match", "blend", "cosine", "fit_least_squares", "layer_outputs", "match_heads", "merge_mlps"]


def best_match(similarity: np.ndarray) -> np.ndarray:
    """Match units one to one: (n, n) similarity of A's unit i and B's unit j -> (n,) p, unit p[i] of B for i of A.

    >>> best_match(np.array([[0.1, 0.9], [0.3, 0.8]])).tolist()
    [1, 0]

    Raises:
        MergeError: the similarity is not square, or not finite.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and settings are checked without it

    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise MergeError(f"units are matched one to one; a similarity of shape {similarity.shape} is not square")
    if not np.isfinite(similarity).all():
        raise MergeError("the similarity of units is infinite or NaN")
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines between rows: (..., n, d) and (..., m, d) -> (..., n, m); 0 to a row of zeros."""

    def unit(rows: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
        return np.asarray(np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0))

    return np.asarray(unit(left) @ unit(right).swapaxes(-1, -2))


def blend(weights: np.ndarray, activations: np.ndarray | None, alpha: float) -> np.ndarray:
    """Blend similarities: `alpha` times that of weights plus 1 - `alpha` times that of activations, if there is one."""
    return weights if activations is None else np.asarray(alpha * weights + (1 - alpha) * activations)


def match_heads(qk: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match units within every pair of heads, then heads: queries and keys share an order, values have another.

    Args:
        qk: (heads, heads, d, d) similarity of the query and key units of head i of A and head j of B.
        v: (heads, heads, d, d) similarity of their value units.

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


def fit_least_squares(wb: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Take the least squares solution that is nearest to `wb`, which stays as it is in directions without inputs.

    Args:
        wb: (out, in + 1) weights and biases.
        gram: (in + 1, in + 1) sum z z^T over inputs z with a 1 at their end.
        cross: (out, in + 1) sum y z^T over the wanted outputs y and the inputs.
    """
    values, vectors = np.linalg.eigh(gram)
    mask = values > 1e-10 * max(values[-1], 0)
    basis = vectors[:, mask]
    return np.asarray(wb + (cross - wb @ gram) @ (basis / values[mask]) @ basis.T)


# ---- multilayer perceptrons ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mlp:
    """A multilayer perceptron: linear layers with ReLU between them."""

    layers: tuple[np.ndarray, ...]
    """(out, in + 1) each: weights, and the bias as last column."""

    def permuted(self, orders: Sequence[np.ndarray]) -> "Mlp":
        """Reorder the units of hidden layer l as `orders[l]`, for the first few l; the function stays the same."""
        layers = list(self.layers)
        for i, order in enumerate(orders):
            layers[i] = layers[i][order]
            layers[i + 1] = layers[i + 1][:, [*order, -1]]
        return Mlp(tuple(layers))


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x))])


def layer_outputs(network: Mlp, x: np.ndarray) -> list[np.ndarray]:
    """Outputs of each layer before its ReLU, for inputs `x`, (samples, in); the last is the network's output."""
    outputs = []
    for layer in network.layers:
        outputs.append(_with_ones(x) @ layer.T)
        x = np.maximum(outputs[-1], 0)
    return outputs


def _centred(x: np.ndarray) -> np.ndarray:
    return np.asarray((x - x.mean(0)).T)


def _matches(a: Mlp, b: Mlp, x: np.ndarray, alpha: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Find for each hidden layer the order of B's units, and the similarity of each to its match in A."""
    orders: list[np.ndarray] = []
    similarities: list[np.ndarray] = []
    for i, (of_a, of_b) in enumerate(zip(layer_outputs(a, x)[:-1], layer_outputs(b, x)[:-1], strict=True)):
        aligned = b.permuted(orders)  # so that both layers have the same input units
        weights = cosine(a.layers[i], aligned.layers[i])
        similarity = blend(weights, cosine(_centred(of_a), _centred(of_b)), alpha)
        orders.append(best_match(similarity))
        similarities.append(similarity[np.arange(len(similarity)), orders[-1]])
    return orders, similarities


@dataclass(frozen=True)
class _Units:
    """The units of A and of B that a merged layer's units stand for: (merged, n) of 0 and 1 each."""

    a: np.ndarray
    b: np.ndarray

    @classmethod
    def of(cls, similarities: np.ndarray, budget: float) -> "_Units":
        """Merge the most similar pairs; then come the other units of A, then those of B: `budget` n in all."""
        n = len(similarities)
        order = np.argsort(-similarities, kind="stable")
        count = round((2 - budget) * n)
        eye, merged, apart = np.eye(n), np.sort(order[:count]), np.sort(order[count:])
        none = np.zeros((len(apart), n))
        return cls(np.vstack([eye[merged], eye[apart], none]), np.vstack([eye[merged], none, eye[apart]]))

    @property
    def count(self) -> np.ndarray:
        """Number of networks that each unit stands for, 1 or 2, (merged,)."""
        return np.asarray(self.a.sum(1) + self.b.sum(1))

    def mean(self, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
        """Average rows (n, ...) of A's and B's units to rows (merged, ...)."""
        return np.asarray((self.a @ of_a + self.b @ of_b) / self.count[:, None])


def merge_mlps(a: Mlp, b: Mlp, x: np.ndarray, budget: float = 1.0, alpha: float = 0.0, fit: bool = True) -> Mlp:
    """PLeaS: merge two networks into one whose hidden layers are `budget` times as wide.

    Args:
        x: (samples, in) unlabelled inputs that both networks are run on.
        budget: from 1, every unit is merged with its match, to 2, none is: both networks in one, outputs averaged.
        alpha: weight of the weights' similarity in the matching; activations have the rest.
        fit: fit merged units to the mean of both networks' activations; otherwise average their weights.

    Raises:
        MergeError: layers differ in shape, or the budget is below 1 or above 2.
    """
    if [layer.shape for layer in a.layers] != [layer.shape for layer in b.layers]:
        raise MergeError("two networks are merged layer by layer, but the shapes of their layers differ")
    if not 1 <= budget <= 2:
        raise MergeError(f"budget = {budget:g}: must be from 1 (all units merged) to 2 (none)")
    orders, similarities = _matches(a, b, x, alpha)
    b = b.permuted(orders)
    input_units = _Units(np.eye(x.shape[1]), np.eye(x.shape[1]))  # the input is the same for both
    output_units = _Units(*[np.eye(len(a.layers[-1]))] * 2)
    units = [input_units, *(_Units.of(of_layer, budget) for of_layer in similarities), output_units]
    activations = [[x.T, *(z.T for z in layer_outputs(network, x))] for network in (a, b)]
    layers = []
    for i, (of_a, of_b) in enumerate(zip(a.layers, b.layers, strict=True)):
        into, out = units[i], units[i + 1]
        layer = np.column_stack([
            (out.a @ of_a[:, :-1] @ into.a.T + out.b @ of_b[:, :-1] @ into.b.T) / out.count[:, None],
            out.mean(of_a[:, -1:], of_b[:, -1:]),
        ])  # fmt: skip
        if fit:
            inputs = [s[i] if i == 0 else np.maximum(s[i], 0) for s in activations]
            z, y = _with_ones(into.mean(inputs[0], inputs[1]).T), out.mean(activations[0][i + 1], activations[1][i + 1])
            merged = out.count == 2
            layer[merged] = fit_least_squares(layer[merged], z.T @ z, y[merged] @ z)
        layers.append(layer)
    return Mlp(tuple(layers))
