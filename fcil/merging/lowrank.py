"""Compute with changes of weight matrices as low-rank factors, over which all merges are written.

A change is B A with B (out, k) and A (k, in), in float64; its product is formed by `dense` only. The rank k of a sum or
a difference of changes is the sum of their ranks, until `truncated` makes it smaller again. A change that has no small
factors, such as that of full tuning, is a `Dense` one, I D: sums and differences of those stay dense. Literal
transcription of `truncated`: `best_of_rank` in `tests/reference_peers.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.errors import MergeError

__all__ = [
    "TOLERANCE", "Change", "Dense", "LowRank", "balanced", "dense", "inner", "product_svd", "same_shape", "signs",
    "stacked", "truncated",
]  # fmt: skip

TOLERANCE = 1e-10
"""Singular values of at most TOLERANCE times the largest are dropped. Relative: a round's changes may be tiny."""


@dataclass(frozen=True)
class LowRank:
    """A change of a weight matrix, B A, (out, in), as its factors."""

    b: np.ndarray
    """The factor B, (out, k)."""
    a: np.ndarray
    """The factor A, (k, in)."""

    def __post_init__(self) -> None:
        if self.b.ndim != 2 or self.a.ndim != 2 or self.b.shape[1] != self.a.shape[0]:
            raise MergeError(f"factors B {self.b.shape} and A {self.a.shape} do not multiply")

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product, (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """The number k of columns of B: at least the rank of the product."""
        return int(self.b.shape[1])

    def times(self, factor: float) -> "LowRank":
        """Multiply the change by `factor`."""
        return LowRank(self.b * factor, self.a)

    def transposed(self) -> "LowRank":
        """The transposed change, A^T B^T, (in, out)."""
        return LowRank(self.a.T, self.b.T)

    def minus(self, other: "LowRank") -> "LowRank":
        """Exactly B A - B' A': (B - B') A where A is shared, B (A - A') where B is, else [B | -B'] and [A ; A']."""
        if np.array_equal(self.a, other.a):
            return LowRank(np.subtract(self.b, other.b, dtype=np.float64), self.a)
        if np.array_equal(self.b, other.b):
            return LowRank(self.b, np.subtract(self.a, other.a, dtype=np.float64))
        return stacked([self, other.times(-1.0)])

    @property
    def is_finite(self) -> bool:
        """Tell whether no entry of the factors is infinite or NaN."""
        return bool(np.isfinite(self.b).all() and np.isfinite(self.a).all())

    @property
    def is_zero(self) -> bool:
        """Tell whether one of the factors is zero."""
        return not (self.b.any() and self.a.any())

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Form some rows of the product, (end - begin, in)."""
        return np.asarray(self.b[begin:end] @ self.a)

    def in_float64(self) -> "LowRank":
        """The same change with factors in float64, in which products are formed."""
        return LowRank(self.b.astype(np.float64), self.a.astype(np.float64))


class Dense(LowRank):
    """A change in the form of one matrix D, (out, in): as factors B = I and A = D."""

    def __init__(self, matrix: np.ndarray) -> None:
        object.__setattr__(self, "a", matrix)

    @property
    def b(self) -> np.ndarray:
        """The identity, (out, out)."""
        return np.eye(len(self.a))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix, (out, in)."""
        return self.a.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """The number of columns of the identity, out."""
        return len(self.a)

    def times(self, factor: float) -> "Dense":
        """Multiply the change by `factor`."""
        return Dense(self.a.astype(np.float64) * factor)

    def transposed(self) -> "Dense":
        """The transposed change, (in, out)."""
        return Dense(self.a.T)

    def minus(self, other: LowRank) -> "Dense":
        """The difference, dense whatever the other one is."""
        return Dense(np.subtract(self.a, dense(other), dtype=np.float64))

    @property
    def is_finite(self) -> bool:
        """Tell whether no entry is infinite or NaN."""
        return bool(np.isfinite(self.a).all())

    @property
    def is_zero(self) -> bool:
        """Tell whether all entries are zero."""
        return not self.a.any()

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Some rows of the matrix, (end - begin, in)."""
        return self.a[begin:end]

    def in_float64(self) -> "Dense":
        """The same change in float64."""
        return Dense(self.a.astype(np.float64))


Change = LowRank | np.ndarray
"""A change of a layer's weight: in factors, or dense, (out, in), where a merge is not of low rank."""


def same_shape(changes: Sequence[LowRank]) -> None:
    """Raise MergeError if there are no changes, or if their shapes differ."""
    if not changes:
        raise MergeError("nothing to merge: the list of changes is empty")
    for i, change in enumerate(changes):
        if change.shape != changes[0].shape:
            raise MergeError(f"change {i} is {change.shape}, but change 0 is {changes[0].shape}")


def stacked(changes: Sequence[LowRank], weights: Sequence[float] | None = None) -> LowRank:
    """Sum w_i B_i A_i exactly, as [B_1 | B_2 | ...] and [w_1 A_1 ; w_2 A_2 ; ...]; weights are 1 unless given.

    >>> one = LowRank(np.array([[1.0], [0]]), np.array([[1.0, 2]]))
    >>> both = stacked([one, one], weights=[1, 10])
    >>> both.rank, dense(both).tolist()
    (2, [[11.0, 22.0], [0.0, 0.0]])

    Raises:
        MergeError: there are no changes, or shapes differ.
    """
    same_shape(changes)
    scales = weights if weights is not None else [1.0] * len(changes)
    if any(isinstance(change, Dense) for change in changes):
        total = np.zeros(changes[0].shape)
        for weight, change in zip(scales, changes, strict=True):
            total += weight * dense(change)
        return Dense(total)
    a = [w * c.a.astype(np.float64) for w, c in zip(scales, changes, strict=True)]
    return LowRank(np.concatenate([c.b.astype(np.float64) for c in changes], 1), np.concatenate(a))


def dense(change: Change) -> np.ndarray:
    """The product of a change as one matrix, (out, in) in float64."""
    if isinstance(change, Dense):
        return change.a.astype(np.float64)
    if isinstance(change, LowRank):
        return np.asarray(change.b.astype(np.float64) @ change.a.astype(np.float64))
    return change.astype(np.float64)


def inner(left: LowRank, right: LowRank) -> float:
    """The inner product <B A, B' A'>_F = tr((B^T B')(A' A^T)) in O(k k' (out + in)), without forming a product."""
    same_shape([left, right])
    if isinstance(left, Dense) or isinstance(right, Dense):
        return float(np.sum(dense(left) * dense(right)))
    b = left.b.astype(np.float64).T @ right.b.astype(np.float64)
    a = left.a.astype(np.float64) @ right.a.astype(np.float64).T
    return float(np.sum(b * a))


def signs(columns: np.ndarray) -> np.ndarray:
    """Signs, (k,), that make the largest entry of every column of (n, k) positive: an SVD leaves them undetermined."""
    return np.asarray(np.sign(columns[np.abs(columns).argmax(0), np.arange(columns.shape[1])]))


def product_svd(change: Change, tolerance: float = TOLERANCE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin SVD of a change, U, s, V^T; that of factors takes two QRs and an SVD of k x k.

    Args:
        tolerance: singular values of at most `tolerance` times the largest are dropped; a zero change keeps none.

    Returns:
        (out, k), (k,) falling, (k, in). The largest entry of every column of U is positive, which determines the signs.
    """
    if isinstance(change, LowRank) and not isinstance(change, Dense):
        q_b, r_b = np.linalg.qr(change.b.astype(np.float64))
        q_a, r_a = np.linalg.qr(change.a.astype(np.float64).T)
        u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
        u, vt = q_b @ u, vt @ q_a.T
    else:
        u, s, vt = np.linalg.svd(dense(change), full_matrices=False)
    mask = s > tolerance * s[0] if len(s) else np.zeros(0, bool)
    u, s, vt = u[:, mask], s[mask], vt[mask]
    sign = signs(u)
    return u * sign, s, vt * sign[:, None]


def balanced(u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> LowRank:
    """Split U s V^T into B = U s^1/2 and A = s^1/2 V^T, so that both factors learn at the same pace."""
    root = np.sqrt(s)
    return LowRank(u * root, root[:, None] * vt)


def truncated(change: Change, rank: int) -> tuple[LowRank, float]:
    """The nearest change of rank `rank` (Eckart and Young), padded with zeros to it, and the share of energy lost.

    Returns:
        Balanced factors (out, rank) and (rank, in), and the share of the squared Frobenius norm that was cut off.
    """
    u, s, vt = product_svd(change)
    out, width = u.shape[0], vt.shape[1]
    leading_part = balanced(u[:, :rank], s[:rank], vt[:rank])
    b, a = np.zeros((out, rank)), np.zeros((rank, width))
    b[:, : leading_part.rank], a[: leading_part.rank] = leading_part.b, leading_part.a
    energy = float(np.sum(s**2))
    return LowRank(b, a), float(np.sum(s[rank:] ** 2)) / energy if energy else 0.0
