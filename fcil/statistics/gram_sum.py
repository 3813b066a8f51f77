"""Sum a Gram matrix in products of many inputs at a time, and give it as its upper half or by a factor of few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import symmetric_half

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GramSum"]

BLOCK = 1024
"""Inputs that wait until they are summed: a product of so many reads and writes the whole sum once."""


class GramSum:
    """Sums G = sum x x^T, (M, M), of inputs x, in float64."""

    def __init__(self, inputs: Tensor, most: int = 0) -> None:
        """Begin with inputs, (n, M) float64, where n may be 0; up to `most` are kept if a factor is wanted."""
        self._block = max(BLOCK, most)
        self._waiting = [inputs.detach()]
        self._sum: Tensor | None = None
        """Its lower triangle is of no meaning."""

    def add(self, x: Tensor) -> None:
        """Add inputs, (n, M) float64."""
        self._waiting.append(x.detach())
        if sum(map(len, self._waiting)) > self._block:
            self._total()

    def _total(self) -> Tensor:
        """G of all inputs so far, in its upper triangle."""
        import torch

        x = torch.cat(self._waiting)
        self._waiting = [x.new_zeros((0, x.shape[1]))]
        if self._sum is None:
            self._sum = x.new_zeros(x.shape[1], x.shape[1])
        if not len(x):
            return self._sum
        if x.device.type != "cpu":
            return self._sum.addmm_(x.T, x)
        from scipy.linalg.blas import dsyrk  # one triangle: half the work of a product

        total = dsyrk(1.0, x.numpy().T, 1.0, self._sum.numpy().T, lower=1, overwrite_c=1)
        self._sum = torch.from_numpy(total.T)
        return self._sum

    def half(self) -> np.ndarray:
        """Give G as its upper half, (M (M + 1) / 2,)."""
        return symmetric_half(self._total().cpu().numpy())

    def factor(self, rank: int) -> np.ndarray:
        """Factor G by its k = min(rank, M) largest eigenvalues into F, (k, M): F^T F is the nearest of rank k.

        Of inputs X, (n, M), that are few it takes U diag(s) U^T = X X^T, (n, n): F is the rows of U^T X that belong to
        the largest s. For n = 50 and M = 1,250 that is a hundredth of the work of G's own eigenvectors, and the same F
        but for signs and rounding. Rows are zero where there are fewer inputs than k.
        """
        import torch

        x = torch.cat(self._waiting)
        rank = min(rank, x.shape[1])
        if self._sum is None and len(x) <= x.shape[1]:
            rows = torch.linalg.eigh(x @ x.T)[1][:, -rank:].T @ x
            rows = torch.cat([x.new_zeros(rank - len(rows), x.shape[1]), rows])
        else:
            values, vectors = torch.linalg.eigh(self._total(), UPLO="U")
            rows = (vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()).T
        return np.ascontiguousarray(rows.cpu().numpy())
