"""Solve a head from sums of features: the settings by which ridge methods do it, and the solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, symmetric_half
from fcil.errors import MergeError
from fcil.merging import packed
from fcil.merging.cross_validation import least_generalised_error
from fcil.merging.discriminant import balanced_rows, discriminant_rows
from fcil.merging.ridge import GRID, best_penalty, biases, ridge_rows
from fcil.options import Option
from fcil.statistics.features import GRAM, HELD, Wire, class_sums, counts

__all__ = ["HELD_OUT", "RidgeSolution", "fitted", "taken", "together"]

HELD_OUT = 0.1
"""Share of the samples by which the penalty is chosen."""


def fitted(sums: Arrays, tasks: Sequence[int], prefix: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """G, Q and counts over these tasks: of the samples that are not held out, or with HELD of those that are."""
    q, count = (np.concatenate([sums[prefix + name(t)] for t in tasks]) for name in (class_sums, counts))
    return sums[prefix + GRAM], q, count


def together(sums: Arrays) -> dict[str, np.ndarray]:
    """The sums over all samples, of those held out and those not."""
    return {name: a + sums[HELD + name] for name, a in sums.items() if not name.startswith(HELD)}


def taken(name: str, a: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The entries of a sum that belong to some entries of phi."""
    if name.removeprefix(HELD) == GRAM:
        return symmetric_half(packed.whole(a)[np.ix_(at, at)])
    return a if a.ndim == 1 else a[:, at]


@dataclass(frozen=True, kw_only=True)
class RidgeSolution:
    """The settings of a head solved from G, Q and counts, and its solution."""

    penalty: Annotated[
        float | Literal["auto", "gcv", "accuracy"],
        Option(
            "lambda; `auto`: from a grid by the error on 10 % of the samples, summed apart (twice the traffic); "
            "`accuracy`: by right answers on them (one more report); `gcv`: by generalised cross-validation of sums",
            above=0,
        ),
    ] = "auto"
    solution: Annotated[
        Literal["ridge", "balanced", "lda"],
        Option("`balanced`: ridge in which all classes weigh the same; `lda`: linear discriminants, equal priors"),
    ] = "ridge"
    wire: Annotated[
        Wire, Option("type of the sums that are sent; float32 halves the traffic and moves the solution a little")
    ] = "float64"

    @property
    def held_out(self) -> float:
        """Share of the samples whose sums are sent apart."""
        return HELD_OUT if self.penalty in ("auto", "accuracy") else 0.0

    def solution_of(
        self, gram: np.ndarray, q: np.ndarray, count: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Solve for the rows of H^T, (C, M), and the biases, (C,), at a penalty."""
        if self.solution == "lda":
            rows, present = discriminant_rows(gram, q, count, penalty)
            return rows, biases(count, present)
        if self.solution == "balanced":
            return balanced_rows(gram, q, count, penalty), biases(count)
        return ridge_rows(gram, q, penalty), biases(count)

    def solution_near(
        self, gram: np.ndarray, q: np.ndarray, count: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Solve at a penalty that was chosen for ridge regression, or at ten times it and so on where it is too small.

        Rounding to float32 may make the scatter within classes indefinite where G is not.
        """
        for stronger in (penalty * 10.0**k for k in range(len(GRID))):
            try:
                return self.solution_of(gram, q, count, stronger)
            except MergeError as error:
                reason = error
        raise reason

    def penalty_of(self, gram: np.ndarray, q: np.ndarray, count: np.ndarray) -> float:
        """The penalty where nothing is held out: given, or chosen by generalised cross-validation."""
        if isinstance(self.penalty, str):
            return least_generalised_error(gram, q, float(count.sum()))[0]
        return self.penalty

    def solved(self, sums: Arrays, tasks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Solve for the rows of H^T, (C, M), of these tasks' classes, with their biases, (C,); float64."""
        gram, q, count = fitted(sums, tasks)
        if not self.held_out:
            solve = self.solution_near if isinstance(self.penalty, str) else self.solution_of
            return solve(gram, q, count, self.penalty_of(gram, q, count))
        held_out_sums = fitted(sums, tasks, HELD)
        penalty = best_penalty(gram, q, (held_out_sums[0], held_out_sums[1], float(held_out_sums[2].sum())))
        return self.solution_near(gram + held_out_sums[0], q + held_out_sums[1], count + held_out_sums[2], penalty)
