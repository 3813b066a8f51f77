"""TSV-M, Iso-C, Iso-CTS and OPCM, merges of the singular vectors of changes, computed on low-rank factors.

The papers decompose dense changes and give weight to all min(out, in) singular vectors. A LoRA change of rank r has
only r of them; the others belong to singular value zero and are whatever the SVD routine returns. Here nothing leaves
the numerical rank: every result lies in the column and row spaces of the changes, and turns with them.

`weights` multiply the changes, 1 each unless given: the published sums are over equal tasks. Literal transcription:
`tests/reference_spectral.py`.
"""

from collections.abc import Sequence

import numpy as np

from fcil.merging.lowrank import LowRank, product_svd, same_shape, stacked

__all__ = ["ROUNDING", "iso_c", "iso_cts", "project_and_add", "tsv_m"]

ROUNDING = 1e-6
"""Singular values of at most ROUNDING times the largest count as zero.

Factors travel in float32, whose rounding is about 1e-7. These merges raise small singular values to the size of large
ones: without a limit above the rounding, noise would come out at full strength.
"""

Svd = tuple[np.ndarray, np.ndarray, np.ndarray]
"""U (out, k), s (k,), V^T (k, in)."""


def _weighted(changes: Sequence[LowRank], weights: Sequence[float] | None) -> list[LowRank]:
    same_shape(changes)
    return list(changes) if weights is None else [stacked([c], [w]) for c, w in zip(changes, weights, strict=True)]


def _polar(vectors: np.ndarray) -> np.ndarray:
    """The matrix nearest to (n, k) unit columns whose singular values are all 1, within its numerical rank.

    Independent columns become orthonormal; a direction that several columns share counts once, divided among them.
    """
    p, d, qt = np.linalg.svd(vectors, full_matrices=False)
    mask = d > ROUNDING * d.max(initial=0.0)
    return np.asarray(p[:, mask] @ qt[mask])


def tsv_m(changes: Sequence[LowRank], weights: Sequence[float] | None = None) -> LowRank:
    """TSV-M: sum the changes after making their singular vectors orthogonal (Gargiulo et al., arXiv 2412.00081).

    B_t A_t = U_t S_t V_t^T, the leading min(out, in) / T components of each;  Delta = U S V^T with U and V the polar
    factors of [U_1 | U_2 | ...] and [V_1 | V_2 | ...], and S all their singular values. Where no component is cut,
    identical changes come out as they are, and changes with orthogonal columns and rows as their sum.

    Returns:
        (out, k) and (k, in), k <= sum of ranks.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    weighted = _weighted(changes, weights)
    count = max(1, min(weighted[0].shape) // len(weighted))
    parts = [_leading(product_svd(change, ROUNDING), count) for change in weighted]
    u = np.concatenate([u for u, _, _ in parts], 1)
    s = np.concatenate([s for _, s, _ in parts])
    v = np.concatenate([vt.T for _, _, vt in parts], 1)
    return LowRank(_polar(u) * s, _polar(v).T)


def iso_c(changes: Sequence[LowRank], weights: Sequence[float] | None = None, rank: int | None = None) -> LowRank:
    """Iso-C: set all singular values of the sum of the changes to their mean (Marczak et al., arXiv 2502.04959).

    The mean is over the rank of the sum; over min(out, in) values, most of them zero, it would shrink with the layer.

    Args:
        rank: number of leading components of the sum to take, where the result may have no more; all unless given.
            Truncating the result instead would keep arbitrary ones, since all are equally large.

    Returns:
        (out, k) and (k, in), k at most the rank of the sum.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    u, s, vt = _leading(product_svd(stacked(_weighted(changes, weights)), ROUNDING), rank)
    return LowRank(u * _mean(s), vt)


def iso_cts(
    changes: Sequence[LowRank],
    weights: Sequence[float] | None = None,
    common: float = 0.8,
    rank: int | None = None,
) -> LowRank:
    """Iso-CTS: Iso-C with the weakest components replaced by directions of single tasks (the same paper).

    Of the R components of the sum the leading k stay, about `common` R. Each task adds the (R - k) / T leading
    components of (I - U_k U_k^T) B_t A_t. All vectors are made orthogonal, and all singular values set to their mean.

    Args:
        common: share of the sum's components that stay, 0..1; 1 is Iso-C.
        rank: bounds R; see `iso_c`.

    Returns:
        (out, k) and (k, in), k <= R.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    weighted = _weighted(changes, weights)
    u, s, vt = _leading(product_svd(stacked(weighted), ROUNDING), rank)
    per_task = min(len(s) // len(weighted), round((len(s) - int(common * len(s))) / len(weighted)))
    k, floor = len(s) - per_task * len(weighted), ROUNDING * s.max(initial=0.0)
    parts = [_outside(u[:, :k], change, per_task, floor) for change in weighted]
    parts.append(_leading((u, s, vt), k))
    left = _polar(np.concatenate([u for u, _, _ in parts], 1))
    right = _polar(np.concatenate([vt.T for _, _, vt in parts], 1))
    return LowRank(left * _mean(np.concatenate([s for _, s, _ in parts])), right.T)


def _leading(svd: Svd, count: int | None) -> Svd:
    u, s, vt = svd
    return u[:, :count], s[:count], vt[:count]


def _outside(common: np.ndarray, change: LowRank, count: int, floor: float) -> Svd:
    """The `count` leading components, above `floor`, of what a change has outside of orthonormal columns (out, k)."""
    b = change.b.astype(np.float64)
    svd = product_svd(LowRank(b - common @ (common.T @ b), change.a), ROUNDING)
    return _leading(svd, min(count, int(np.sum(svd[1] > floor))))


def _mean(s: np.ndarray) -> float:
    return float(s.mean()) if len(s) else 0.0


def project_and_add(changes: Sequence[LowRank], alpha: float) -> LowRank:
    """OPCM: add changes in turn, each without its components in the sum so far (Tang et al., arXiv 2501.09522).

    With the sum so far U S V^T, a change loses its components along the pairs u_i v_j^T of the leading block, and along
    u_i v_i^T of all others. The block is the leading components that hold no more than `alpha` of sum S together.
    The caller scales the result to the mean norm of the changes, over all layers at once.

    Args:
        changes: in the order in which the tasks were learned.
        alpha: 0..1; 1 removes all that lies in both spaces of the sum so far, 0 only the pairs u_i v_i^T.

    Returns:
        (out, k) and (k, in), k <= sum of ranks. One change, or copies of it, give that change.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    total = changes[0]
    for change in changes[1:]:
        u, s, vt = product_svd(total, ROUNDING)
        inside = (u.T @ change.b) @ (change.a @ vt.T)
        removed = np.diag(np.diag(inside))
        block = int(np.sum(np.cumsum(s) <= alpha * s.sum() * (1 + 1e-12)))  # the last sum may miss the whole by a bit
        removed[:block, :block] = inside[:block, :block]
        total = stacked([LowRank(u @ (np.diag(s) - removed), vt), change])
    return total
