"""Sums of features by class and random group, from which a server estimates the Gram matrix that nobody sends.

Each client cuts its samples into groups at random. Of group g and class c it sends s = sum phi, (M,), and the number n
of samples. With K groups over all clients, N_c samples of class c and q_c = sum_g s_gc their sum, the server takes

    G = sum_c a_c sum_g s_gc s_gc^T / n_gc - b_c q_c q_c^T
    a_c = (N_c - 1) / (K - 1),   b_c = (N_c - K) / ((K - 1) N_c)

and 0 in the place of negative coefficients: STSA-E, arXiv 2506.01327. Where K counts the groups that have the class,
this is N_c - 1 times the sample covariance, estimated from the means of groups, plus q_c q_c^T / N_c, and right on
average. With one sample a group and class it is G.

Literal transcription: `grouped_gram` in tests/reference_baselines3.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.method import ClientUpdate, Draw, Model, Shapes, head
from fcil.seeding import generator
from fcil.statistics.claims import counts_objection, sums_objection
from fcil.statistics.features import GRAM, FeatureSums, class_sums, counts

if TYPE_CHECKING:
    from torch import Tensor

    from fcil.statistics.feature_map import Phi

__all__ = ["GroupSums", "estimated_gram", "group_counts", "group_of", "group_sums"]


def group_sums(task: int) -> str:
    """Name the sums of a task's groups and classes, (groups, classes of the task, M)."""
    return f"group_sums.{task}"


def group_counts(task: int) -> str:
    """Name the numbers of samples of a task's groups and classes, (groups, classes of the task)."""
    return f"group_counts.{task}"


@lru_cache(maxsize=2)
def _draws(seed: int, count: int) -> np.ndarray:
    draws = generator(seed, "groups").random(count)
    draws.setflags(write=False)
    return draws


def group_of(seed: int, samples: np.ndarray, groups: int) -> np.ndarray:
    """The group of each sample, (n,) from 0 on, drawn evenly: it depends on the sample, not on who sums it when."""
    draws = _draws(seed, 1 << int(samples.max(initial=0)).bit_length())
    return np.asarray((draws[samples] * groups).astype(np.int64))


def estimated_gram(sums: Sequence[np.ndarray], numbers: Sequence[np.ndarray], all_groups: bool) -> np.ndarray:
    """Estimate G, (M, M), from all clients' sums by group and class; float64.

    Args:
        sums: of each client, (groups, classes, M).
        numbers: of each client, (groups, classes).
        all_groups: whether K counts all groups, as the paper has it, or of each class those that have it. Where K is 1
            nothing is known of a class's scatter, which counts as 0.
    """
    s, n = (np.concatenate(parts).astype(np.float64) for parts in (sums, numbers))
    gram = np.zeros((s.shape[2], s.shape[2]))
    for c in range(s.shape[1]):
        total, q = n[:, c].sum(), s[:, c].sum(0)
        if not total:
            continue
        k = len(n) if all_groups else int((n[:, c] > 0).sum())
        first, second = ((total - 1) / (k - 1), (total - k) / ((k - 1) * total)) if k > 1 else (0.0, -1 / total)
        rows = s[:, c] / np.sqrt(np.maximum(n[:, c], 1))[:, None]
        gram += first * (rows.T @ rows) - (second if k == 1 else max(second, 0.0)) * np.outer(q, q)
    return gram


@dataclass
class _Sums:
    """Collects s and n over batches."""

    phi: Phi
    first: int
    group: Callable[[np.ndarray], np.ndarray]
    sums: Tensor
    numbers: Tensor
    finished: Callable[[Tensor, Tensor], Arrays]
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch of features to the sums of their groups and classes."""
        import torch
        from torch.nn import functional as F

        groups, classes = self.numbers.shape
        place = torch.from_numpy(self.group(samples)).to(labels.device) * classes + labels - self.first
        hot = F.one_hot(place, groups * classes).double()
        self.sums.view(groups * classes, -1).addmm_(hot.T, self.phi(features))
        self.numbers += hot.sum(0).view(groups, classes)

    def finish(self) -> Arrays:
        """Turn the sums into the arrays that are sent."""
        return self.finished(self.sums, self.numbers)


@dataclass(frozen=True)
class GroupSums(FeatureSums):
    """Statistic s and n of each group and class of the task: groups x c x (M + 1) numbers, and G is estimated.

    What it comes to over all clients is what `FeatureSums` does, G, Q and n.
    """

    groups: int = 5
    all_groups: bool = True

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes of the arrays sent."""
        c, m = self.total_shapes(broadcast)[class_sums(self.task.index)]
        return {group_sums(self.task.index): (self.groups, c, m), group_counts(self.task.index): (self.groups, c)}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sums:  # type: ignore[override]
        """Start a collector with sums of zero."""
        import torch

        width = arrays[head.weight(self.task.index)].shape[1]
        shape = (self.groups, self.task.size, self.map.size(width))
        sums, numbers = (torch.zeros(s, dtype=torch.float64, device=model.device) for s in (shape, shape[:2]))
        names = (group_sums(self.task.index), group_counts(self.task.index))

        def finished(*totals: Tensor) -> Arrays:
            return {name: a.cpu().numpy().astype(self.wire) for name, a in zip(names, totals, strict=True)}

        def group(samples: np.ndarray) -> np.ndarray:
            return group_of(self.map.seed, samples, self.groups)

        return _Sums(self.map.on(model.device, width), self.task.first, group, sums, numbers, finished)

    def objection(self, sent: Arrays, examples: int) -> str | None:
        """Say why no client with as many samples can have summed this; None where nothing speaks against it."""
        s, n = sent[group_sums(self.task.index)], sent[group_counts(self.task.index)].ravel()
        return counts_objection(n, examples) or sums_objection(n, s.reshape(len(n), -1), None, self.map.clip)

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """G as estimated from all clients' groups, as its upper half, Q and the numbers of samples; float64.

        The estimate is no sum over clients: all of them are needed at once. Clients without samples have no groups.
        """
        t, updates = self.task.index, [u for u in updates if u.num_examples > 0] or updates[:1]
        sums, numbers = ([u.statistics[name(t)] for u in updates] for name in (group_sums, group_counts))
        gram = symmetric_half(estimated_gram(sums, numbers, self.all_groups))
        q = np.sum([s.astype(np.float64).sum(0) for s in sums], 0)
        return {GRAM: gram, class_sums(t): q, counts(t): np.sum([n.astype(np.float64).sum(0) for n in numbers], 0)}
