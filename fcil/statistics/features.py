"""Sums of a frozen backbone's features, of which classifiers are solved in closed form (see `fcil.merging.ridge`).

One pass over a task's data, batch by batch: no matrix of all samples is ever held. Features are float32 as the network
gives them; what is made of them and all sums are float64, so they do not depend on how samples are cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from fcil.arrays import Arrays, added, symmetric_half
from fcil.method import ClientUpdate, Draw, Model, Shapes, Task, head
from fcil.seeding import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Phi = Callable[[Tensor], Tensor]

__all__ = [
    "FACTOR", "GRAM", "HELD", "Drift", "FeatureMap", "FeatureSums", "Wire", "class_sums", "counts", "projection",
    "features_of_models",
]  # fmt: skip

GRAM = "gram"
FACTOR = "gram_factor"
"""What a sketch sends in the place of G: F, G being about F^T F."""
HELD = "held_out."
"""Prefix of the sums over held-out samples."""
CROSS, OLD_GRAM = "cross", "old_gram"
Wire = Literal["float64", "float32"]


def class_sums(task: int) -> str:
    """Name of Q's rows of a task's classes, (classes of the task, M)."""
    return f"class_sums.{task}"


def counts(task: int) -> str:
    """Name of the samples of a task's classes, (classes of the task,)."""
    return f"counts.{task}"


@lru_cache(maxsize=2)
def projection(seed: int, size: int, width: int) -> np.ndarray:
    """R ~ N(0, 1), (size, width) float32: the same in every process, so it never travels."""
    drawn = generator(seed, "random features").standard_normal((size, width)).astype(np.float32)
    drawn.setflags(write=False)
    return drawn


@lru_cache(maxsize=2)
def lots(seed: int, count: int) -> np.ndarray:
    """(count,) in [0, 1): one for each sample of a training part. More of them begin with the same ones."""
    drawn = generator(seed, "held out").random(count)
    drawn.setflags(write=False)
    return drawn


def features_of_models(features: Tensor, models: int, chosen: Sequence[int]) -> Tensor:
    """(n, models * width) -> (n, len(chosen) * width): the features under the chosen models."""
    import torch

    parts = features.chunk(models, 1)
    return torch.cat([parts[i] for i in chosen], 1)


@dataclass(frozen=True)
class FeatureMap:
    """phi, from the features that the network gives: these themselves, or divided by their norm, or relu(R z)."""

    normalised: bool = False
    random: int = 0
    """M random features; 0 for none."""
    seed: int = 0

    def size(self, width: int) -> int:
        """M."""
        return self.random or width

    def apply(self, features: Tensor, projection: Tensor | None = None) -> Tensor:
        """(n, width) -> (n, M) float64; with random features, given R (M, width), of which no row means none."""
        import torch

        x = features.double()
        if self.normalised:
            x = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return x if projection is None or not len(projection) else (x @ projection.double().T).relu_()

    def on(self, device: torch.device, width: int) -> Phi:
        """`apply`, with R at hand on a device."""
        import torch

        if not self.random:
            return self.apply
        r = torch.tensor(projection(self.seed, self.random, width)).double().to(device)
        return lambda features: self.apply(features, r)


@dataclass
class _Sums:
    """A collector of G, Q and n; G only where it is asked for."""

    phi: Phi
    first: int
    totals: dict[str, Tensor]
    """"counts" and "class_sums", and "gram" where it is asked for; again with HELD before the name."""
    finished: Callable[[Mapping[str, Tensor]], Arrays]
    held: Callable[[np.ndarray], np.ndarray] | None = None
    """Samples -> which of them are held out."""
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch."""
        import torch

        x, local = self.phi(features), labels - self.first
        if self.held is None:
            return self._add("", x, local)
        held = torch.from_numpy(self.held(samples)).to(x.device)
        self._add("", x[~held], local[~held])
        self._add(HELD, x[held], local[held])

    def _add(self, prefix: str, x: Tensor, labels: Tensor) -> None:
        from torch.nn import functional as F

        hot = F.one_hot(labels, len(self.totals[prefix + "counts"])).double()
        self.totals[prefix + "counts"] += hot.sum(0)
        self.totals[prefix + "class_sums"].addmm_(hot.T, x)
        if prefix + GRAM in self.totals:
            self.totals[prefix + GRAM].addmm_(x.T, x)

    def finish(self) -> Arrays:
        """What is sent."""
        return self.finished(self.totals)


@dataclass(frozen=True)
class FeatureSums:
    """G, Q and n of the current task's samples: M (M + 1) / 2 + M c + c numbers with c classes in the task.

    With `held_out` a share of the samples is summed apart, which sends the same again. A sample's lot depends on the
    map's seed and on which sample it is, so that these sums, too, are the same for every split of the data. With
    `sketch` = k a G is sent as the k x M factor F of its k largest eigenvalues, G being about F^T F.
    """

    task: Task
    map: FeatureMap = FeatureMap()
    gram: bool = True
    held_out: float = 0.0
    sketch: int = 0
    wire: Wire = "float64"
    models: int = 1
    chosen: tuple[int, ...] = (0,)
    """Of a pass under several models those whose features stand side by side in phi's input."""

    def _prefixes(self) -> tuple[str, ...]:
        return ("", HELD) if self.held_out else ("",)

    def _totals(self, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what `total` gives, for features of a length."""
        m, c = self.map.size(width * len(self.chosen)), self.task.size
        own: dict[str, tuple[int, ...]] = {class_sums(self.task.index): (c, m), counts(self.task.index): (c,)}
        whole = {GRAM: (m * (m + 1) // 2,)} if self.gram else {}
        return {prefix + name: shape for prefix in self._prefixes() for name, shape in {**whole, **own}.items()}

    def zeros(self, width: int) -> dict[str, np.ndarray]:
        """The sums over no samples, as `total` gives them, for features of a length."""
        return {name: np.zeros(shape) for name, shape in self._totals(width).items()}

    def shapes(self, broadcast: Shapes) -> Shapes:
        """As in the class's text, given a head block of the task, which may have no rows."""
        width = broadcast[head.weight(self.task.index)][1]
        m = self.map.size(width * len(self.chosen))
        factor = (min(self.sketch, m), m)
        sums = self._totals(width).items()
        return {self._sent_as(n): factor if self._sent_as(n) != n else shape for n, shape in sums}

    def _sent_as(self, name: str) -> str:
        return name.removesuffix(GRAM) + FACTOR if self.sketch and name.endswith(GRAM) else name

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Sums:
        """Zero sums."""
        import torch

        width = arrays[head.weight(self.task.index)].shape[1] * len(self.chosen)
        phi, m, c = self.map.on(model.device, width), self.map.size(width), self.task.size
        shapes = {"counts": (c,), "class_sums": (c, m), **({GRAM: (m, m)} if self.gram else {})}
        totals = {
            prefix + name: torch.zeros(shape, dtype=torch.float64, device=model.device)
            for prefix in self._prefixes()
            for name, shape in shapes.items()
        }

        def held(samples: np.ndarray) -> np.ndarray:
            return np.asarray(lots(self.map.seed, 1 << int(samples.max()).bit_length())[samples] < self.held_out)

        return _Sums(
            lambda features: phi(features_of_models(features, self.models, self.chosen)),
            self.task.first, totals, self._sent, held if self.held_out else None,
        )  # fmt: skip

    def _sent(self, totals: Mapping[str, Tensor]) -> Arrays:
        out: dict[str, np.ndarray] = {}
        for prefix in self._prefixes():
            if self.gram:
                gram = totals[prefix + GRAM]
                sent = largest(gram, self.sketch) if self.sketch else symmetric_half(gram.cpu().numpy())
                out[self._sent_as(prefix + GRAM)] = sent
            out[prefix + class_sums(self.task.index)] = totals[prefix + "class_sums"].cpu().numpy()
            out[prefix + counts(self.task.index)] = totals[prefix + "counts"].cpu().numpy()
        return {name: a.astype(self.wire, copy=False) for name, a in out.items()}

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """The sums over clients in float64, every G as its upper half."""
        names = list(self._totals(1))
        return {name: added(self._read(name, u.statistics) for u in updates) for name in names}

    def _read(self, name: str, sent: Arrays) -> np.ndarray:
        if self._sent_as(name) == name:
            return sent[name]
        factor = sent[self._sent_as(name)].astype(np.float64)
        return symmetric_half(factor.T @ factor)


def largest(gram: Tensor, rank: int) -> np.ndarray:
    """F, (k, M), of the k = min(rank, M) largest eigenvalues of G (M, M): F^T F is the nearest matrix of rank k."""
    import torch

    values, vectors = torch.linalg.eigh(gram)
    kept = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
    return np.ascontiguousarray(kept.T.cpu().numpy())


@dataclass
class _Pairs:
    """A collector of C and G_o."""

    new: Phi
    old: Phi
    cross: Tensor
    gram: Tensor
    wire: Wire
    layers: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)
    gradients: Mapping[str, Callable[[Tensor], None]] = field(default_factory=dict)

    def batch(self, features: Tensor, labels: Tensor, samples: np.ndarray) -> None:
        """Add a batch."""
        before = self.old(features)
        self.cross.addmm_(self.new(features).T, before)
        self.gram.addmm_(before.T, before)

    def finish(self) -> Arrays:
        """C whole, G_o as its upper half."""
        sent = {CROSS: self.cross.cpu().numpy(), OLD_GRAM: symmetric_half(self.gram.cpu().numpy())}
        return {name: a.astype(self.wire, copy=False) for name, a in sent.items()}


@dataclass(frozen=True)
class Drift:
    """C = sum phi' phi^T and G_o = sum phi phi^T of features phi' under one model and phi under an older one."""

    task: Task
    map: FeatureMap
    models: int
    new: tuple[int, ...]
    old: tuple[int, ...]
    wire: Wire = "float64"

    def shapes(self, broadcast: Shapes) -> Shapes:
        """(M, M) and (M (M + 1) / 2,)."""
        m = self.map.size(broadcast[head.weight(self.task.index)][1] * len(self.new))
        return {CROSS: (m, m), OLD_GRAM: (m * (m + 1) // 2,)}

    def start(self, arrays: Arrays, model: Model, generator: Draw) -> _Pairs:
        """Zero sums."""
        import torch

        width = arrays[head.weight(self.task.index)].shape[1] * len(self.new)
        phi, m = self.map.on(model.device, width), self.map.size(width)

        def seen(chosen: tuple[int, ...]) -> Phi:
            return lambda features: phi(features_of_models(features, self.models, chosen))

        zero = torch.zeros((m, m), dtype=torch.float64, device=model.device)
        return _Pairs(seen(self.new), seen(self.old), zero, zero.clone(), self.wire)

    def total(self, updates: Sequence[ClientUpdate]) -> dict[str, np.ndarray]:
        """The sums over clients, in float64."""
        return {name: added(u.statistics[name] for u in updates) for name in (CROSS, OLD_GRAM)}
