"""Statistics of features under two models at once, from which the map from old to new features is fitted.

By this map sums of old features are transported to new ones: see `fcil.merging.ridge.transport`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, added, symmetric_half
from fcil.method import ClientUpdate, Draw, GramShape, Model, Shapes, Task, head
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import Wire, features_of_models

if TYPE_CHECKING:
    from torch import Tensor

    from fcil.statistics.feature_map import Phi

__all__ = ["CROSS", "OLD_GRAM", "Drift"]

CROSS, OLD_GRAM = "cross", "old_gram"
"""Names of C and of G_o."""


@dataclass
class _Pairs:
    """Collects C and G_o over batches."""

    new: Phi
    old: Phi
    cross: Tensor
    gram: Tensor
    wire: Wire
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch of features to the sums."""
        old = self.old(features)
        self.cross.addmm_(self.new(features).T, old)
        self.gram.addmm_(old.T, old)

    def finish(self) -> Arrays:
        """Turn the sums into the arrays that are sent: C whole, G_o as its upper half."""
        sent = {CROSS: self.cross.cpu().numpy(), OLD_GRAM: symmetric_half(self.gram.cpu().numpy())}
        return {name: a.astype(self.wire, copy=False) for name, a in sent.items()}


@dataclass(frozen=True)
class Drift:
    """Statistic C = sum phi' phi^T and G_o = sum phi phi^T, of features phi' under one model and phi under an older."""

    task: Task
    map: FeatureMap
    models: int
    new: tuple[int, ...]
    old: tuple[int, ...]
    wire: Wire = "float64"

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes of C, (M, M), and of the upper half of G_o, (M (M + 1) / 2,)."""
        m = self.map.size(broadcast[head.weight(self.task.index)][1] * len(self.new))
        return {CROSS: (m, m), OLD_GRAM: GramShape((m * (m + 1) // 2,), "half")}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Pairs:
        """Start a collector with sums of zero."""
        import torch

        width = arrays[head.weight(self.task.index)].shape[1] * len(self.new)
        phi, m = self.map.on(model.device, width), self.map.size(width)

        def phi_of(chosen: tuple[int, ...]) -> Phi:
            return lambda features: phi(features_of_models(features, self.models, chosen))

        zero = torch.zeros((m, m), dtype=torch.float64, device=model.device)
        return _Pairs(phi_of(self.new), phi_of(self.old), zero, zero.clone(), self.wire)

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """Add up the clients' sums in float64."""
        return {name: added(u.statistics[name] for u in updates) for name in (CROSS, OLD_GRAM)}
