"""Statistic of right answers: how many of the held-out samples each of several heads classifies correctly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, added
from fcil.method import SCORES, ClientUpdate, Draw, Model, Shapes, Task, head
from fcil.statistics.feature_map import FeatureMap

if TYPE_CHECKING:
    from torch import Tensor

    from fcil.statistics.feature_map import Phi

__all__ = ["BIASES", "HEADS", "RIGHT", "SCORED", "RightAnswers"]

HEADS, BIASES = SCORES + "heads", SCORES + "biases"
"""Name of the heads that are tried, (heads, classes seen, M), and of their biases, (heads, classes seen)."""
RIGHT, SCORED = "right", "scored"
"""Names of the right answers of each head, (heads,), and of the number of samples, (1,)."""


@dataclass
class _Count:
    """Counts right answers over batches."""

    phi: Phi
    heads: Tensor
    biases: Tensor
    right: Tensor
    scored: int = 0
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch of features to the counts."""
        answers = self.phi(features).float() @ self.heads.transpose(1, 2) + self.biases[:, None]  # (heads, n, classes)
        self.scored += len(labels)
        self.right += (answers.argmax(2) == labels).sum(1)

    def finish(self) -> Arrays:
        """Give the counts, which are whole numbers and so add exactly."""
        return {RIGHT: self.right.cpu().numpy().astype(np.float64), SCORED: np.array([float(self.scored)])}


@dataclass(frozen=True)
class RightAnswers:
    """Statistic of the current task's samples: the number that each head of the broadcast classifies correctly."""

    task: Task
    map: FeatureMap

    def shapes(self, broadcast: Shapes) -> Shapes:
        """One number for each head, and the number of samples."""
        return {RIGHT: broadcast[HEADS][:1], SCORED: (1,)}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Count:
        """Start a collector with counts of zero."""
        import torch

        phi = self.map.on(model.device, arrays[head.weight(self.task.index)].shape[1])
        heads, biases = (torch.tensor(np.asarray(arrays[name], np.float32)) for name in (HEADS, BIASES))
        zero = torch.zeros(len(heads), dtype=torch.int64, device=model.device)
        return _Count(phi, heads.to(model.device), biases.to(model.device), zero)

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """Add up the clients' counts."""
        return {name: added(u.statistics[name] for u in updates) for name in (RIGHT, SCORED)}

    def objection(self, sent: Arrays, examples: int) -> str | None:
        """Say why no client with as many samples can have counted this; None where nothing speaks against it."""
        right, scored = sent[RIGHT], float(sent[SCORED][0])
        if any((a != np.round(a)).any() for a in (right, sent[SCORED])) or not 0 <= scored <= examples:
            return f"{scored:g} samples were scored; the client holds {examples}"
        if (right < 0).any() or (right > scored).any():
            return f"right answers are not between 0 and the {scored:g} samples that were scored"
        return None
