"""Statistics by class of a network's features, of which class Gaussians are made: number, mean and scatter.

Each client sends n_c, its mean m_c and the scatter S_c = sum (f - m_c)(f - m_c)^T of every class of the task: about its
own mean, so that float32 is enough. They are pooled by sums that add over clients, sum n_c, sum n_c m_c and
sum (S_c + n_c m_c m_c^T), in float64 (`ClassMoments.pooled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.merging import packed
from fcil.method import Draw, GramShape, Model, NoSum, Shapes, Task, head
from fcil.statistics.claims import counts_objection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["COUNTS", "MEANS", "ClassMoments", "scatter_of"]

COUNTS, MEANS = "moments.counts", "moments.means"
"""Names of the numbers of samples, (classes,), and of the means, (classes, width), zero for a class without samples."""


def scatter_of(index: int) -> str:
    """Name the scatter of a class by its place in the task, (width (width + 1) / 2,) or its diagonal, (width,)."""
    return f"moments.scatter.{index}"


@dataclass
class _Moments:
    """Collects sums of a class's features and of their products over batches."""

    first: int
    counts: Tensor
    sums: Tensor
    products: Tensor
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch, class by class."""
        x, classes = features.double(), labels - self.first
        for index in set(classes.tolist()):
            rows = x[classes == index]
            self.counts[index] += len(rows)
            self.sums[index] += rows.sum(0)
            self.products[index] += rows.square().sum(0) if self.products.dim() == 2 else rows.T @ rows

    def finish(self) -> Arrays:
        """Return numbers, means and scatters, float32."""
        counts, sums, products = (a.cpu().numpy() for a in (self.counts, self.sums, self.products))
        means = sums / np.maximum(counts, 1)[:, None]
        out = {COUNTS: counts, MEANS: means}
        for index, (count, mean, product) in enumerate(zip(counts, means, products, strict=True)):
            if product.ndim == 1:
                out[scatter_of(index)] = np.maximum(product - count * mean**2, 0)
            else:
                scatter = product - count * np.outer(mean, mean)
                np.fill_diagonal(scatter, np.maximum(np.diagonal(scatter), 0))  # rounding can leave less than nothing
                out[scatter_of(index)] = symmetric_half(scatter)
        return {name: np.asarray(a, np.float32) for name, a in out.items()}


@dataclass(frozen=True)
class ClassMoments:
    """Statistic n, m and S of each of the task's classes: 1 + width + width (width + 1) / 2 floats a class.

    With `diagonal` the diagonal of S alone: 1 + 2 width floats. Classes that a client does not have are zeros.
    """

    task: Task
    diagonal: bool = False

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes of what is sent; the broadcast has the task's head rows, which tell the width."""
        width, classes = broadcast[head.weight(self.task.index)][1], self.task.size
        whole = GramShape((width * (width + 1) // 2,), "half")
        scatter = GramShape((width,), "diagonal") if self.diagonal else whole
        return {
            COUNTS: (classes,),
            MEANS: NoSum((classes, width), "weighted"),
            **{scatter_of(i): scatter for i in range(classes)},
        }

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Moments:
        """Start a collector with sums of zero."""
        import torch

        width, classes = arrays[head.weight(self.task.index)].shape[1], self.task.size

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=model.device)

        products = zeros(classes, width) if self.diagonal else zeros(classes, width, width)
        return _Moments(self.task.first, zeros(classes), zeros(classes, width), products)

    def objection(self, sent: Arrays, examples: int) -> str | None:
        """Say why no client with as many samples can have sent this; None where nothing speaks against it."""
        if reason := counts_objection(sent[COUNTS], examples):
            return reason
        for index, (count, mean) in enumerate(zip(sent[COUNTS], sent[MEANS], strict=True)):
            if count == 0 and (mean.any() or sent[scatter_of(index)].any()):
                return f"class {index} of the task has no samples, and a mean or a scatter"
        return None

    def sums(self, sent: Arrays) -> dict[str, np.ndarray]:
        """Turn what one client sent into sums that add over clients, float64: n, n m and S + n m m^T."""
        counts, means = sent[COUNTS].astype(np.float64), sent[MEANS].astype(np.float64)
        out = {COUNTS: counts, MEANS: counts[:, None] * means}
        for index, (count, mean) in enumerate(zip(counts, means, strict=True)):
            products = mean**2 if self.diagonal else symmetric_half(np.outer(mean, mean))
            out[scatter_of(index)] = sent[scatter_of(index)].astype(np.float64) + count * products
        return out

    def pooled(self, sums: Arrays) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Pool sums over all clients: n (classes,), means (classes, width), and the covariance of each class.

        Covariances are (width, width), or their diagonals, (width,): S / (n - 1), the sample covariance of the pooled
        data; zero for a class of one sample or none.
        """
        counts = sums[COUNTS]
        means = sums[MEANS] / np.maximum(counts, 1)[:, None]
        covariances = []
        for index, (count, mean) in enumerate(zip(counts, means, strict=True)):
            products = sums[scatter_of(index)]
            outer = mean**2 if self.diagonal else np.outer(mean, mean)
            scatter = (products if self.diagonal else packed.whole(products)) - count * outer
            covariances.append(scatter / (count - 1) if count > 1 else np.zeros_like(outer))
        return counts, means, covariances
