"""KnOTS (Stoica et al., ICLR 2025, arXiv 2410.19735): LoRA changes in one basis, from the SVD of all of them together.

    [dW_1 | ... | dW_n] = U S [V_1^T | ... | V_n^T]   =>   dW_i = U (S V_i^T)

U is what the changes share, S V_i^T = (U^T B_i) A_i (k, in) are expert i's coordinates, and merging by magnitude and
sign is done on those. No change is made dense: with thin QRs B = [B_1 | ... | B_n] = Q R and A_i^T = Q_i T_i the matrix
is

    Q [R_1 T_1^T | ... | R_n T_n^T] blockdiag(Q_1^T, ..., Q_n^T),   R_i the columns of R that belong to B_i

whose outer factors are orthonormal, so that the small matrix has the same singular values: O(R^2 (out + in) + R^3)
for R = sum of the ranks. Gram matrices would be as cheap, but would square the condition.
"""

from collections.abc import Sequence

import numpy as np

from fcil.merging.lowrank import TOLERANCE, LowRank, same_shape, signs
from fcil.merging.shared_basis import Space

__all__ = ["columns", "rows"]


def columns(changes: Sequence[LowRank], tolerance: float = TOLERANCE) -> Space:
    """Changes beside each other, as in the paper: U is shared, and S V_i^T are the coordinates, in factors.

    Returns:
        (out, k) and coordinates (k, in) with k = rank of all together, at least 1. Columns of U go by falling singular
        value, and the largest entry of each is positive. Where singular values coincide, U is one choice of many.

    Raises:
        MergeError: no changes, or shapes that differ.
    """
    same_shape(changes)
    outer, inner = np.linalg.qr(np.concatenate([c.b.astype(np.float64) for c in changes], 1))
    ends = np.cumsum([c.rank for c in changes])[:-1]
    triangles = [np.asarray(np.linalg.qr(c.a.astype(np.float64).T, mode="r")) for c in changes]
    small = [r @ t.T for r, t in zip(np.split(inner, ends, axis=1), triangles, strict=True)]
    u, s, _ = np.linalg.svd(np.concatenate(small, 1), full_matrices=False)
    left = outer @ u[:, : max(1, np.count_nonzero(s > tolerance * s.max(initial=0.0)))]
    left *= signs(left)
    return Space(tuple(LowRank(left.T @ c.b, c.a) for c in changes), left=left)


def rows(changes: Sequence[LowRank], tolerance: float = TOLERANCE) -> Space:
    """Changes below each other: V is shared, (k, in), and U_i S are the coordinates, (out, k).

    Raises:
        MergeError: as `columns`.
    """
    found = columns([c.transposed() for c in changes], tolerance)
    assert found.left is not None
    return Space(tuple(c.transposed() for c in found.coordinates), right=found.left.T)
