"""NCM: classify by the nearest class mean of frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging.ridge import biases, class_means
from fcil.method import Model, Phase, head
from fcil.options import Option
from fcil.statistics.features import FeatureMap, FeatureSums, class_sums, counts

from ._closed_form import SUMS, ClosedForm

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NCM"]


@dataclass(frozen=True, kw_only=True)
class NCM(ClosedForm):
    """Classify by the nearest class mean of frozen features.

    Janson et al., "A simple baseline that questions the use of pretrained-models in continual learning",
    arXiv 2210.04428. Clients send sums and counts, so the means are those of the pooled data for every split.
    """

    normalise: Annotated[bool, Option("divide features by their Euclidean norm, before they are summed")] = True

    def statistic(self, phase: Phase) -> FeatureSums:
        """Sums and counts of classes; no Gram matrix."""
        return FeatureSums(phase.task, FeatureMap(self.normalise), gram=False)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """Deploy the means as a linear head: -||phi - mean||^2 / 2 less ||phi||^2 / 2, the same for all classes."""
        rows: dict[str, np.ndarray] = {}
        for task in range(phase.task.index + 1):
            count = state[SUMS][counts(task)]
            means = class_means(state[SUMS][class_sums(task)], count)
            rows |= {head.weight(task): means, head.bias(task): biases(count, -np.square(means).sum(1) / 2)}
        return as_float32(rows)

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """The linear head on the features that were summed."""
        return model.logits(FeatureMap(self.normalise).apply(model.features(images)).float())
