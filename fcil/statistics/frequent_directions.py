"""Sketch a Gram matrix in k rows by frequent directions, over a stream of inputs and without ever forming it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FrequentDirections"]

BLOCK = 256
"""Fewest inputs that are added at a time, each time with an eigen-decomposition of (k + BLOCK)^2 numbers."""


class FrequentDirections:
    """Sketches G = sum x x^T by S, (k, in), such that S^T S approaches G from below.

    For every j <= k: || G - S^T S ||_2 <= (trace(G) - the j largest eigenvalues of G) / (k + 1 - j). Liberty, KDD 2013;
    the bound is that of Ghashami, Liberty, Phillips and Woodruff, arXiv 1501.01711, for a cut at the (k + 1)-th value.
    Inputs of rank k at most are kept without loss, so k = in is the whole Gram matrix. Everything runs in float64.
    """

    def __init__(self, width: int, rows: int) -> None:
        import torch

        self.rows = min(rows, width)
        self.kept = torch.zeros(0, width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add inputs, (n, in), to the sketch."""
        import torch

        for block in torch.split(x, max(BLOCK, self.rows)):
            self.kept = torch.cat([self.kept.to(x.device), block.double()])
            if len(self.kept) > self.rows:
                self._shrink()

    def _shrink(self) -> None:
        """Lower all squared singular values by the (k + 1)-th, which leaves k directions."""
        import torch

        values, vectors = torch.linalg.eigh(self.kept @ self.kept.T)  # ascending
        top, cut = values[-self.rows :], values[-self.rows - 1].clamp_min(0)
        share = ((top - cut).clamp_min(0) / top.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
        self.kept = (share * vectors[:, -self.rows :]).T @ self.kept

    def sketch(self) -> Tensor:
        """Give S, (k, in), filled up with rows of zeros."""
        import torch

        padding = self.kept.new_zeros(self.rows - len(self.kept), self.kept.shape[1])
        return torch.cat([self.kept, padding])
