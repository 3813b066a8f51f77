"""Response matching: the linear map whose responses are closest to those of many, each on its own inputs.

minimise over Theta  sum_i || (Theta - Theta_i) X_i ||_F^2,  G_i = X_i X_i^T  =>  Theta* sum_i G_i = sum_i Theta_i G_i

which is RegMean (Jin et al., arXiv 2212.09849) for a whole layer and LoRM (arXiv 2410.17961) for one LoRA factor: with
A shared and P_i = A G_i A^T it gives B* (Eq. for B), with B shared it gives A*, the same for every B of full column
rank. With Gram diagonals only, every column of Theta* is a mean of the clients' columns weighted by their energy.

The full solution is computed as a correction of that diagonal one, D:

    Theta* = D + (sum_i (Theta_i - D) G_i)(sum_i G_i)^+

Where sum_i G_i has full rank, D cancels. Where it has not, the objective says nothing about some directions; there D
stays, so that identical clients are a fixed point and one client gets its own matrix back at any rank, and a feature
without energy keeps the column that everybody started from, bit for bit.
"""

from collections.abc import Sequence

import numpy as np

from fcil.errors import MergeError

__all__ = ["CUT_OFF", "match", "match_diagonal", "merge_tasks_diagonal", "shrink"]

CUT_OFF = 1e-6
"""Eigenvalues of the Gram sum, scaled to unit diagonal, below CUT_OFF times the largest count as zero.

Grams travel in float32, whose rounding moves those eigenvalues by about 1e-7 of the largest. Scaling to unit diagonal
first keeps the rule blind to the units of single features: the inputs of ViT layers differ by factors of 1,000.
"""


def _checked(start: np.ndarray, thetas: Sequence[np.ndarray], grams: Sequence[np.ndarray], gram_ndim: int) -> None:
    if not thetas or len(thetas) != len(grams):
        raise MergeError(
            f"response matching needs one Gram per client and at least one; got {len(thetas)}, {len(grams)}"
        )
    for i, (theta, gram) in enumerate(zip(thetas, grams, strict=True)):
        if theta.shape != start.shape or gram.shape != (start.shape[1],) * gram_ndim:
            raise MergeError(
                f"client {i}: factor {theta.shape} and Gram {gram.shape} do not fit the start {start.shape}"
            )


def _solve_right(right: np.ndarray, gram: np.ndarray, cut_off: float) -> np.ndarray:
    """X with X gram = right, for symmetric positive semi-definite `gram` whose range holds the rows of `right`."""
    diagonal = np.diagonal(gram)
    positive = diagonal > 0
    scale = np.zeros_like(diagonal)
    scale[positive] = diagonal[positive] ** -0.5
    values, vectors = np.linalg.eigh(scale[:, None] * gram * scale)
    kept = values > cut_off * values[-1]
    vectors = scale[:, None] * vectors[:, kept]
    return np.asarray((right @ vectors / values[kept]) @ vectors.T)


def match(
    start: np.ndarray, thetas: Sequence[np.ndarray], grams: Sequence[np.ndarray], cut_off: float = CUT_OFF
) -> np.ndarray:
    """Response matching with full Gram matrices.

    Args:
        start: (out, in) what all clients started from; its column j stays where no client has energy.
        thetas: (out, in) each client's matrix.
        grams: (in, in) each client's sum of x x^T, in any common unit. A zero Gram gives a client no influence.
        cut_off: relative cut-off of eigenvalues.

    Returns:
        (out, in) in float64.
    """
    _checked(start, thetas, grams, 2)
    base = match_diagonal(start, thetas, [np.diagonal(gram) for gram in grams])
    gram_sum = np.zeros((base.shape[1],) * 2)
    right = np.zeros_like(base)
    for theta, gram in zip(thetas, grams, strict=True):
        g = gram.astype(np.float64)
        gram_sum += g
        right += (theta - base) @ g
    return np.asarray(base + _solve_right(right, gram_sum, cut_off))


def match_diagonal(start: np.ndarray, thetas: Sequence[np.ndarray], grams: Sequence[np.ndarray]) -> np.ndarray:
    """Response matching with Gram diagonals: every column is a mean of the clients' columns weighted by energy.

    Args:
        start: (out, in); its column j stays where g_ij = 0 on all clients.
        thetas: (out, in) each.
        grams: (in,) each client's sum of x_j^2.

    Returns:
        (out, in) in float64. Costs two passes over the factors; no in x in matrix exists.
    """
    _checked(start, thetas, grams, 1)
    s = start.astype(np.float64)
    gram_sum = np.sum([gram.astype(np.float64) for gram in grams], axis=0)
    safe = np.where(gram_sum > 0, gram_sum, 1.0)
    change = np.zeros_like(s)
    for theta, gram in zip(thetas, grams, strict=True):
        change += (theta - s) * (gram.astype(np.float64) / safe)
    return s + change


def merge_tasks_diagonal(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], grams: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(sum_t B_t A_t G_t)(sum_t G_t)^+ for diagonal Grams, left in factors.

    Args:
        pairs: (B_t, A_t), (out, r_t) and (r_t, in), one per task.
        grams: (in,) each, g_t.

    Returns:
        (out, R) and (R, in) with R = sum_t r_t, in float64: B = [B_1 ... B_T], A_t scaled column-wise by
        g_t / sum_s g_s. A column without energy in any task gets no change.
    """
    if not pairs or len(pairs) != len(grams):
        raise MergeError(f"merging tasks needs one Gram per task and at least one; got {len(pairs)}, {len(grams)}")
    gram_sum = np.sum([gram.astype(np.float64) for gram in grams], axis=0)
    safe = np.where(gram_sum > 0, gram_sum, 1.0)
    scaled = [a * (gram.astype(np.float64) / safe) for (_, a), gram in zip(pairs, grams, strict=True)]
    return np.concatenate([b.astype(np.float64) for b, _ in pairs], 1), np.concatenate(scaled, 0)


def shrink(gram: np.ndarray, amount: float) -> np.ndarray:
    """A Gram matrix with its off-diagonal entries times `amount`: 1 leaves it, 0 leaves its diagonal only."""
    return np.asarray(gram * (amount + (1 - amount) * np.eye(len(gram), dtype=gram.dtype)))
