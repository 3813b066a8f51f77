"""KnOTS (Stoica et al., ICLR 2025, arXiv 2410.19735): LoRA changes in one basis, from the SVD of all of them together.

    [dW_1 | ... | dW_n] = U S [V_1^T | ... | V_n^T]   =>   dW_i = U (S V_i^T)

U is shared by the changes, S V_i^T = (U^T B_i) A_i (k, in) are expert i's coordinates, and merging by magnitude and
sign is done on those. No change is made dense: with thin QRs B = [B_1 | ... | B_n] = Q R and A_i^T = Q_i T_i the matrix
is

    Q [R_1 T_1^T | ... | R_n T_n^T] blockdiag(Q_1^T, ..., Q_n^T),   R_i the columns of R that belong to B_i

whose outer factors are orthonormal, so that the small matrix has the same singular values: O(R^2 (out + in) + R^3)
for R = sum of the ranks. Gram matrices would be as cheap, but would square the condition number. Literal transcription:
`tests/reference_ties.py`.
"""

from collections.abc import Sequence

import numpy as np

from fcil.merging.lowrank import TOLERANCE, LowRank, same_shape, signs
from fcil.merging.shared_basis import SharedBasis

__all__ = ["column_basis", "row_basis"]


def column_basis(changes: Sequence[LowRank], tolerance: float = TOLERANCE) -> SharedBasis:
    """Decompose changes beside each other, as in the paper: U is shared, S V_i^T are the coordinates, in factors.

    Returns:
        The basis (out, k) and coordinates (k, in) with k = rank of all together, at least 1. Columns of U go by falling
        singular value, the largest entry of each is positive. Where singular values coincide, U is one choice of many.

    Raises:
        MergeError: there are no changes, or shapes differ.
    """
    same_shape(changes)
    outer, inner = np.linalg.qr(np.concatenate([c.b.astype(np.float64) for c in changes], 1))
    ends = np.cumsum([c.rank for c in changes])[:-1]
    triangles = [np.asarray(np.linalg.qr(c.a.astype(np.float64).T, mode="r")) for c in changes]
    small = [r @ t.T for r, t in zip(np.split(inner, ends, axis=1), triangles, strict=True)]
    u, s, _ = np.linalg.svd(np.concatenate(small, 1), full_matrices=False)
    left = outer @ u[:, : max(1, np.count_nonzero(s > tolerance * s.max(initial=0.0)))]
    left *= signs(left)
    return SharedBasis(tuple(LowRank(left.T @ c.b, c.a) for c in changes), left=left)


def row_basis(changes: Sequence[LowRank], tolerance: float = TOLERANCE) -> SharedBasis:
    """Decompose changes below each other: V^T, (k, in), is shared, U_i S are the coordinates, (out, k).

    Raises:
        MergeError: as for `column_basis`.
    """
    transposed = column_basis([c.transposed() for c in changes], tolerance)
    assert transposed.left is not None
    return SharedBasis(tuple(c.transposed() for c in transposed.coordinates), right=transposed.left.T)
