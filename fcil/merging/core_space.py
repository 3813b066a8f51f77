"""Core Space (Panariello et al., NeurIPS 2025, arXiv 2509.17786): LoRA changes as small matrices in two shared bases.

U and V^T are orthonormal bases of the columns of all B_i and of the rows of all A_i, the singular vectors of
[B_1 | ... | B_n] and of [A_1 ; ... ; A_n]. Then B_i A_i = U M_i V^T without loss, M_i = (U^T B_i)(A_i V), and any merge
may work on the M_i, of at most R x R for R = the sum of the ranks. A linear merge comes out the same as on the weights;
so does one that is equivariant to rotations (Iso). One that goes by entries (TIES) depends on the bases, and one that
goes by the layer's size (TSV keeps min(out, in) / T components) sees that of the M_i. Literal transcription:
`tests/reference_ties.py`.
"""

from collections.abc import Sequence

import numpy as np

from fcil.merging.lowrank import TOLERANCE, LowRank, same_shape, signs
from fcil.merging.shared_basis import SharedBasis

__all__ = ["core_basis"]


def _basis(columns: np.ndarray, tolerance: float) -> np.ndarray:
    """Left singular vectors, (n, k), at least one, by falling singular value, the largest entry of each positive."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    u = u[:, : max(1, np.count_nonzero(s > tolerance * s.max(initial=0.0)))]
    return np.asarray(u * signs(u))


def core_basis(changes: Sequence[LowRank], tolerance: float = TOLERANCE) -> SharedBasis:
    """Write the changes of one layer in core space; their ranks may differ.

    Raises:
        MergeError: there are no changes, or shapes differ.
    """
    same_shape(changes)
    pairs = [(c.b.astype(np.float64), c.a.astype(np.float64)) for c in changes]
    u = _basis(np.concatenate([b for b, _ in pairs], 1), tolerance)
    v = _basis(np.concatenate([a for _, a in pairs]).T, tolerance)
    return SharedBasis(tuple(LowRank(u.T @ b, a @ v) for b, a in pairs), left=u, right=v.T)
