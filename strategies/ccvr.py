"""CCVR: train by federated averaging, then calibrate the head on features drawn from class Gaussians."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32, symmetric_half, total
from fcil.merging import packed
from fcil.merging.calibration import calibrated, drawn
from fcil.method import EXAMPLES, REPORT, Averaging, Broadcast, ClientUpdate, Modules, Pass, Phase, Task, head
from fcil.options import Option
from fcil.statistics.class_moments import ClassMoments

from ._adapters import AdapterSettings
from ._server import ServerSettings

__all__ = ["CCVR"]

GAUSSIANS = "gaussians"
"""The state's group: `counts.<t>` (classes,), `means.<t>` (classes, width), `covariances.<t>`, a row a class."""


@dataclass(frozen=True, kw_only=True)
class CCVR(ServerSettings, AdapterSettings, Averaging):
    """Average, then calibrate the head on features drawn from class Gaussians.

    Luo et al., "No fear of heterogeneity: classifier calibration for federated learning with non-IID data", NeurIPS
    2021, arXiv 2106.05001, once a task. Rounds are federated averaging. Then clients report, under the merged model,
    each class's number of samples, mean and covariance; with n_kc, m_kc and S_kc of client k the server pools

        m_c = sum_k n_kc / n_c m_kc
        S_c = sum_k (n_kc - 1) / (n_c - 1) S_kc + sum_k n_kc / (n_c - 1) m_kc m_kc^T - n_c / (n_c - 1) m_c m_c^T

    the moments of the pooled data, draws `samples` features of each class from N(m_c, S_c), and trains the head on them
    by cross-entropy over all classes: those of earlier tasks too, from Gaussians that it keeps (`calibrate`). The
    backbone's modules stay. Sent beside federated averaging: 1 + d + d (d + 1) / 2 floats a class of the task, with a
    diagonal covariance 1 + 2 d. The server keeps as much of all classes, the clients nothing.

    Differs from the paper, which has one task: Gaussians of earlier tasks are not carried over to the features of
    later ones. Without ReLU and Tukey's power transform of features, made for the positive ones of convolutional
    networks. A class of one sample has no covariance, and its features are all the mean; public code drops it, sums its
    statistics over images that are not normalised, and forgets earlier tasks. `normalise` is the loss of that code.
    Literal transcription: `tests/reference_gaussians.py`, `pooled`.
    """

    covariance: Annotated[Literal["full", "diagonal"], Option("what clients send of each class's covariance")] = "full"
    calibrate: Annotated[
        Literal["seen", "current"], Option("classes whose rows are calibrated: all seen so far, or the task's own")
    ] = "seen"
    samples: Annotated[int, Option("features that are drawn of each class; M_c in the paper", low=1)] = 256
    calibration_epochs: Annotated[int, Option("passes over the drawn features; 0 leaves the head as it is", low=0)] = 10
    calibration_batch: Annotated[int, Option("drawn features of a step", low=1)] = 256
    calibration_lr: Annotated[float, Option("learning rate of the head's calibration", above=0)] = 0.01
    normalise: Annotated[bool, Option("calibrate on logits of norm 1 over a temperature of 0.1")] = False

    def moments(self, task: Task) -> ClassMoments:
        """The statistic that clients report."""
        return ClassMoments(task, self.covariance == "diagonal")

    def task_report(self, task: Task) -> tuple[Pass, ...]:
        """Numbers, means and scatters of the task's classes, under the merged model and the test view."""
        return (Pass((self.moments(task),)),)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The module and the task's head rows, which in the report tell the length of features."""
        sent = super().broadcast(state, phase)
        return Broadcast({**sent.arrays, **Modules.of(state).head_rows(phase.task.index)}, sent.references)

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why no samples have these moments."""
        if phase.kind != REPORT:
            return super().objection(phase, broadcast, update)
        return self.moments(phase.task).objection(update.statistics, update.num_examples)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Federated averaging's sums; in the report those of features and of their products, by class."""
        if phase.kind != REPORT:
            return super().sums(phase, broadcast, updates)
        moments = self.moments(phase.task)
        examples = np.array(sum(u.num_examples for u in updates), np.float64)
        return {**total([moments.sums(u.statistics) for u in updates]), EXAMPLES: examples}

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state with the task's Gaussians, and calibrated head rows."""
        task = phase.task.index
        counts, means, covariances = self.moments(phase.task).pooled(sums)
        rows = [symmetric_half(c) if c.ndim == 2 else c for c in covariances]
        new = {f"counts.{task}": counts, f"means.{task}": means, f"covariances.{task}": np.stack(rows)}
        state = {**state, GAUSSIANS: {**state.get(GAUSSIANS, {}), **as_float32(new)}}
        tasks = [task] if self.calibrate == "current" else range(task + 1)
        return Modules.of(state).replaced(self.calibrated_rows(state, phase, tasks))

    def calibrated_rows(self, state: State, phase: Phase, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        """Head rows of some tasks, trained on features drawn for all of their classes that have samples."""
        old = Modules.of(state).head_rows(*tasks)
        features, labels = self._drawn_features(state, phase, tasks)
        present, labels = np.unique(labels, return_inverse=True)  # a class without samples takes no part
        weights, biases = (np.concatenate([old[name(t)] for t in tasks]) for name in (head.weight, head.bias))
        new = calibrated(
            weights[present], biases[present], features, labels, self._order(phase, len(labels)),
            self.calibration_lr, normalise=self.normalise,
        )  # fmt: skip
        weights[present], biases[present] = new
        ends = np.cumsum([len(old[head.bias(t)]) for t in tasks])[:-1]
        blocks = zip(tasks, np.split(weights, ends), np.split(biases, ends), strict=True)
        return {name: a for t, w, b in blocks for name, a in ((head.weight(t), w), (head.bias(t), b))}

    def _drawn_features(self, state: State, phase: Phase, tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Draw features from the Gaussians of tasks' classes, (n, width); with them their places among these, (n,)."""
        gaussians, rng = state[GAUSSIANS], phase.generator("class features")
        counts, means, covariances = (
            [row for t in tasks for row in gaussians[f"{kind}.{t}"]] for kind in ("counts", "means", "covariances")
        )
        present = [place for place, count in enumerate(counts) if count > 0]
        whole = packed.whole if self.covariance == "full" else np.asarray
        features = [drawn(means[c], whole(covariances[c]), self.samples, rng) for c in present]
        return np.concatenate(features), np.repeat(present, self.samples)

    def _order(self, phase: Phase, count: int) -> list[np.ndarray]:
        """The steps' samples: every epoch goes through all of them in a new order."""
        rng, size = phase.generator("calibration order"), self.calibration_batch
        orders = [rng.permutation(count) for _ in range(self.calibration_epochs)]
        return [order[begin : begin + size] for order in orders for begin in range(0, count, size)]
