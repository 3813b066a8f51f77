"""Ridge: ridge regression on a frozen backbone's features, the same for every split of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging.ridge import best_penalty, biases, ridge_rows
from fcil.method import Phase
from fcil.model import head
from fcil.options import Option
from fcil.statistics.features import GRAM, HELD, FeatureMap, FeatureSums, Wire, class_sums, counts

from ._closed_form import ClosedForm

__all__ = ["Ridge"]

HELD_OUT = 0.1
"""Share of the samples by which the penalty is chosen."""


@dataclass(frozen=True, kw_only=True)
class Ridge(ClosedForm):
    """H = (G + lambda I)^-1 Q of frozen features: the centralised head, whoever holds which samples.

    AFL and AFCL, "Analytic federated class-incremental learning", arXiv 2505.12245, there in recursive form. Clients
    send G = sum phi phi^T and Q = sum phi y^T once a task; the server adds, and solves by Cholesky in float64.
    """

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

    def feature_map(self, seed: int) -> FeatureMap:
        """Features as they are."""
        return FeatureMap(seed=seed)

    def statistic(self, phase: Phase) -> FeatureSums:
        """G, Q and counts, and the same of the held-out samples."""
        held_out = HELD_OUT if self.penalty == "auto" else 0.0
        return FeatureSums(phase.task, self.feature_map(phase.seed), held_out=held_out, wire=self.wire)

    def solution(self, state: State, tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(C, M) rows of H^T of all classes of these tasks, and (C,) their samples, in float64."""
        sums = state["sums"]
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
        """The head of all classes seen, solved from all samples so far."""
        tasks = range(phase.task.index + 1)
        rows, count = self.solution(state, tasks)
        ends = np.cumsum([len(state["sums"][counts(t)]) for t in tasks])[:-1]
        weights = {head.weight(t): a for t, a in enumerate(np.split(rows, ends))}
        return as_float32({**weights, **{head.bias(t): a for t, a in enumerate(np.split(biases(count), ends))}})
