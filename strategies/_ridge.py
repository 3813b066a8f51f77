"""The base of methods that solve a ridge head from sums: the statistic, the solution, and random features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging.ridge import best_penalty, biases, ridge_rows
from fcil.method import SCORES, Model, Phase, head
from fcil.options import Option
from fcil.statistics.features import (
    GRAM,
    HELD,
    FeatureMap,
    FeatureSums,
    Wire,
    class_sums,
    counts,
    projection,
)  # fmt: skip

from ._closed_form import SUMS, ClosedForm, feature_width

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PROJECTION", "RidgeMethod"]

HELD_OUT = 0.1
"""Share of the samples by which the penalty is chosen."""
PROJECTION = SCORES + "projection"


@dataclass(frozen=True, kw_only=True)
class RidgeMethod(ClosedForm):
    """The base of the methods whose head is H = (G + lambda I)^-1 Q of features, or of random features of them."""

    penalty: Annotated[
        float | Literal["auto"],
        Option(
            "lambda; `auto` picks it from a grid by the error on 10 % of the samples, of which only sums are sent "
            "(twice the traffic), and then solves with all samples",
            above=0,
        ),
    ] = "auto"
    wire: Annotated[
        Wire, Option("type of the sums that are sent; float32 halves the traffic and moves the solution a little")
    ] = "float64"

    @property
    def random_features(self) -> int | None:
        """M, the number of random features relu(R z); 0 leaves features as they are, None has no R at all."""
        return None

    @property
    def sketch_rank(self) -> int:
        """Rank of the factor in whose form G is sent; 0 sends all of it."""
        return 0

    def statistic(self, phase: Phase) -> FeatureSums:
        """G, Q and counts, and the same of the held-out samples."""
        features = FeatureMap(random=self.random_features or 0, seed=phase.seed)
        held_out = HELD_OUT if self.penalty == "auto" else 0.0
        return FeatureSums(phase.task, features, held_out=held_out, wire=self.wire, sketch=self.sketch_rank)

    def solution(self, state: State, tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Solve for the rows of H^T, (C, M), of these tasks' classes, with their sample counts, (C,); float64."""
        sums = state[SUMS]
        gram, q = sums[GRAM], np.concatenate([sums[class_sums(t)] for t in tasks])
        count = np.concatenate([sums[counts(t)] for t in tasks])
        penalty = self.penalty
        if penalty == "auto":
            q_held = np.concatenate([sums[HELD + class_sums(t)] for t in tasks])
            count_held = np.concatenate([sums[HELD + counts(t)] for t in tasks])
            penalty = best_penalty(gram, q, (sums[HELD + GRAM], q_held, float(count_held.sum())))
            gram, q, count = gram + sums[HELD + GRAM], q + q_held, count + count_held
        return ridge_rows(gram, q, penalty), count

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The head of all classes seen, solved from all samples so far, and R where there is one."""
        tasks = range(phase.task.index + 1)
        rows, count = self.solution(state, tasks)
        ends = np.cumsum([len(state[SUMS][counts(t)]) for t in tasks])[:-1]
        weights = {head.weight(t): a for t, a in enumerate(np.split(rows, ends))}
        solved = as_float32({**weights, **{head.bias(t): a for t, a in enumerate(np.split(biases(count), ends))}})
        if self.random_features is None:
            return solved
        r = projection(phase.seed, self.random_features, self.input_width(state))
        return {**solved, PROJECTION: np.array(r)}

    def input_width(self, state: State) -> int:
        """Length of z, the feature vector of which random features are made."""
        return feature_width(state)

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """Class scores by the head on the features, or on relu(R z)."""
        return self.scores_of(model, model.features(images))

    def scores_of(self, model: Model, z: Tensor) -> Tensor:
        """Class scores of features z, (n, length of z) -> (n, classes seen)."""
        if PROJECTION not in model.arrays:
            return model.logits(z)
        phi = FeatureMap(random=self.random_features or 0).apply(z, model.arrays[PROJECTION])
        return model.logits(phi.float())
