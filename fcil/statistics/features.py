"""Statistics of a frozen backbone's features, from which classifiers are solved in closed form (`fcil.merging.ridge`).

One pass sums over a task's data: at most a thousand samples' phi are in memory, or for a sketch as many as make up G.
Features are float32 as the network gives them; phi and all sums are float64, so they depend on how samples are cut into
batches by rounding at most.

G = sum phi phi^T, (M, M); Q, (c, M), has the sum of phi of each class; n, (c,), the number of samples of each class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from fcil.arrays import Arrays, added
from fcil.method import ClientUpdate, Draw, GramShape, Model, NoSum, Shapes, Task, head
from fcil.seeding import generator
from fcil.statistics.claims import counts_objection, sums_objection
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.gram_sum import GramSum
from fcil.statistics.privacy import SumsNoise

if TYPE_CHECKING:
    from torch import Tensor

    from fcil.statistics.feature_map import Phi

__all__ = [
    "FACTOR", "GRAM", "HELD", "FeatureSums", "Wire", "class_sums", "counts", "features_of_models", "held_out",
]  # fmt: skip

GRAM = "gram"
FACTOR = "gram_factor"
"""Name of F, which a sketch sends instead of G: G is about F^T F."""
HELD = "held_out."
"""Prefix of the sums over held-out samples."""
Wire = Literal["float64", "float32"]


def class_sums(task: int) -> str:
    """Name the rows of Q of a task's classes, (classes of the task, M)."""
    return f"class_sums.{task}"


def counts(task: int) -> str:
    """Name the numbers of samples of a task's classes, (classes of the task,)."""
    return f"counts.{task}"


@lru_cache(maxsize=2)
def uniform_draws(seed: int, count: int) -> np.ndarray:
    """Draw uniform numbers in [0, 1), (count,), one per training sample; a longer draw begins with the shorter one."""
    draws = generator(seed, "held out").random(count)
    draws.setflags(write=False)
    return draws


def held_out(seed: int, share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Give the rule by which samples are held out: indices -> whether each is, the same whoever holds a sample."""

    def is_held_out(samples: np.ndarray) -> np.ndarray:
        draws = uniform_draws(seed, 1 << int(samples.max(initial=0)).bit_length())
        return np.asarray(draws[samples] < share)

    return is_held_out


def features_of_models(features: Tensor, models: int, chosen: Sequence[int]) -> Tensor:
    """Select the features under the chosen models: (n, models * width) -> (n, len(chosen) * width)."""
    import torch

    parts = features.chunk(models, 1)
    return torch.cat([parts[i] for i in chosen], 1)


@dataclass
class _Sums:
    """Collects Q and n over batches, and G if it is wanted."""

    phi: Phi
    first: int
    totals: dict[str, Tensor]
    """"counts" and "class_sums"; again with HELD before the name."""
    grams: Mapping[str, GramSum]
    """G by the same prefixes, if it is wanted."""
    finished: Callable[[Mapping[str, Tensor], Mapping[str, GramSum]], Arrays]
    is_held_out: Callable[[np.ndarray], np.ndarray] | None = None
    """Indices of samples -> whether each is held out."""
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch of features to the sums."""
        import torch

        x, local = self.phi(features), labels - self.first
        if self.is_held_out is None:
            return self._add("", x, local)
        held_out = torch.from_numpy(self.is_held_out(samples)).to(x.device)
        self._add("", x[~held_out], local[~held_out])
        self._add(HELD, x[held_out], local[held_out])

    def _add(self, prefix: str, x: Tensor, labels: Tensor) -> None:
        from torch.nn import functional as F

        hot = F.one_hot(labels, len(self.totals[prefix + "counts"])).double()
        self.totals[prefix + "counts"] += hot.sum(0)
        self.totals[prefix + "class_sums"].addmm_(hot.T, x)
        if prefix in self.grams:
            self.grams[prefix].add(x)

    def finish(self) -> Arrays:
        """Turn the sums into the arrays that are sent."""
        return self.finished(self.totals, self.grams)


@dataclass(frozen=True)
class FeatureSums:
    """Statistic G, Q and n of the current task's samples: M (M + 1) / 2 + M c + c numbers with c classes in the task.

    With `held_out` a share of the samples is summed apart, which sends as much again. Whether a sample is held out
    depends on the map's seed and on which sample it is, so these sums, too, are the same for every split of the data.
    With `sketch` = k a G is sent as the k x M factor F of its k largest eigenvalues, G being about F^T F.
    """

    task: Task
    map: FeatureMap = field(default_factory=FeatureMap)
    gram: bool = True
    held_out: float = 0.0
    sketch: int = 0
    wire: Wire = "float64"
    models: int = 1
    chosen: tuple[int, ...] = (0,)
    """Models, of those of the pass, whose features stand side by side in phi's input."""
    noise: SumsNoise | None = None
    """Noise that each client adds to its sums before it sends them; a Gram is then none, and may be anything."""

    def _prefixes(self) -> tuple[str, ...]:
        return ("", HELD) if self.held_out else ("",)

    def total_shapes(self, broadcast: Shapes) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of `total`; the broadcast has a head block of the task, which may have no rows."""
        m, c = self.map.size(broadcast[head.weight(self.task.index)][1] * len(self.chosen)), self.task.size
        per_class: dict[str, tuple[int, ...]] = {class_sums(self.task.index): (c, m), counts(self.task.index): (c,)}
        half = (m * (m + 1) // 2,)
        whole: dict[str, tuple[int, ...]] = {GRAM: half if self.noise else GramShape(half, "half")} if self.gram else {}
        return {prefix + name: shape for prefix in self._prefixes() for name, shape in {**whole, **per_class}.items()}

    def zeros(self, broadcast: Shapes) -> dict[str, np.ndarray]:
        """The arrays of `total` over no samples."""
        return {name: np.zeros(shape) for name, shape in self.total_shapes(broadcast).items()}

    def shapes(self, broadcast: Shapes) -> Shapes:
        """Shapes of the arrays sent."""
        sums = self.total_shapes(broadcast).items()
        m = self.map.size(broadcast[head.weight(self.task.index)][1] * len(self.chosen))
        factor = NoSum((min(self.sketch, m), m), "root")
        return {self._sent_as(n): factor if self._sent_as(n) != n else shape for n, shape in sums}

    def _sent_as(self, name: str) -> str:
        return name.removesuffix(GRAM) + FACTOR if self.sketch and name.endswith(GRAM) else name

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sums:
        """Start a collector with sums of zero."""
        import torch

        width = arrays[head.weight(self.task.index)].shape[1] * len(self.chosen)
        phi, m, c = self.map.on(model.device, width), self.map.size(width), self.task.size
        shapes = {"counts": (c,), "class_sums": (c, m)}
        totals = {
            prefix + name: torch.zeros(shape, dtype=torch.float64, device=model.device)
            for prefix in self._prefixes()
            for name, shape in shapes.items()
        }
        nothing = torch.zeros((0, m), dtype=torch.float64, device=model.device)
        grams = {prefix: GramSum(nothing, m if self.sketch else 0) for prefix in self._prefixes() if self.gram}
        return _Sums(
            lambda features: phi(features_of_models(features, self.models, self.chosen)),
            self.task.first, totals, grams, lambda totals, grams: self._sent(totals, grams, generator),
            held_out(self.map.seed, self.held_out) if self.held_out else None,
        )  # fmt: skip

    def _sent(self, totals: Mapping[str, Tensor], grams: Mapping[str, GramSum], generator: Draw) -> Arrays:
        out: dict[str, np.ndarray] = {}
        for prefix in self._prefixes():
            if self.gram:
                gram, name = grams[prefix], self._sent_as(prefix + GRAM)
                out[name] = gram.factor(self.sketch) if self.sketch else gram.half()
            out[prefix + class_sums(self.task.index)] = totals[prefix + "class_sums"].cpu().numpy()
            out[prefix + counts(self.task.index)] = totals[prefix + "counts"].cpu().numpy()
        out = self.noise.added(out, generator("privacy")) if self.noise else out
        return {name: a.astype(self.wire, copy=False) for name, a in out.items()}

    def objection(self, sent: Arrays, examples: int) -> str | None:
        """Say why no client with as many samples can have summed this; None where nothing speaks against it."""
        if self.noise:
            return None
        count, q = counts(self.task.index), class_sums(self.task.index)
        if reason := counts_objection(added(sent[prefix + count] for prefix in self._prefixes()), examples):
            return reason
        for prefix in self._prefixes():
            gram, factor = sent.get(prefix + GRAM), sent.get(prefix + FACTOR)
            trace = None if factor is None else float(np.square(factor.astype(np.float64)).sum())
            reason = sums_objection(sent[prefix + count], sent[prefix + q], gram, self.map.clip, trace)
            if reason:
                return f"{prefix}{reason}" if prefix else reason
        return None

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """Add up the clients' sums in float64, every G as its upper half."""
        kinds = [GRAM] * self.gram + [class_sums(self.task.index), counts(self.task.index)]
        names = [prefix + kind for prefix in self._prefixes() for kind in kinds]
        return {name: self._total(name, [u.statistics for u in updates]) for name in names}

    def _total(self, name: str, sent: Sequence[Arrays]) -> np.ndarray:
        if self._sent_as(name) == name:
            return added(arrays[name] for arrays in sent)
        import torch

        factors = (torch.from_numpy(arrays[self._sent_as(name)].astype(np.float64)) for arrays in sent)
        gram = GramSum(next(factors))
        for factor in factors:
            gram.add(factor)
        return gram.half()
