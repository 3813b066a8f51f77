"""Factor a Gram matrix by its largest eigenvalues, from the inputs themselves while they are few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LeadingFactor"]


class LeadingFactor:
    """Factors G = sum x x^T, (M, M), by its k largest eigenvalues into F, (k, M): F^T F is the nearest of rank k.

    Up to M inputs are kept as they are, X (n, M): with X X^T = U diag(s) U^T, (n, n), F is the rows of U^T X that
    belong to the largest s. Of n = 50 inputs and M = 1,250 that is a hundredth of the work of G's own eigenvectors, and
    the same F but for signs and rounding. More inputs are summed into G. Everything runs in float64.
    """

    def __init__(self, rank: int, inputs: Tensor) -> None:
        """Begin with inputs, (n, M) float64, where n may be 0."""
        self.rank = min(rank, inputs.shape[1])
        self._few = [inputs]
        self._gram: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Add inputs, (n, M) float64."""
        self._few.append(x)
        if sum(map(len, self._few)) > x.shape[1]:
            self._gram = self._summed()
            self._few = [x[:0]]

    def _summed(self) -> Tensor:
        import torch

        x = torch.cat(self._few)
        return x.T @ x if self._gram is None else self._gram.addmm_(x.T, x)

    def factor(self) -> np.ndarray:
        """Give F, (k, M), with rows of zeros where there are fewer inputs than k."""
        import torch

        if self._gram is None:
            x = torch.cat(self._few)
            rows = torch.linalg.eigh(x @ x.T)[1][:, -self.rank :].T @ x
            rows = torch.cat([x.new_zeros(self.rank - len(rows), x.shape[1]), rows])
        else:
            values, vectors = torch.linalg.eigh(self._summed())
            rows = (vectors[:, -self.rank :] * values[-self.rank :].clamp_min(0).sqrt()).T
        return np.ascontiguousarray(rows.cpu().numpy())
