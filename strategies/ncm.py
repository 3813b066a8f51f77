"""NCM: classify by the nearest class mean of frozen features."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging.ridge import biases, class_means
from fcil.method import Phase, head
from fcil.options import Option
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import FeatureSums, class_sums, counts

from ._closed_form import SUMS, ClosedForm, feature_width

__all__ = ["NCM"]


@dataclass(frozen=True, kw_only=True)
class NCM(ClosedForm):
    """Classify by the nearest class mean of frozen features.

    Janson et al., "A simple baseline that questions the use of pretrained-models in continual learning",
    arXiv 2210.04428. Clients send sums and counts, so the means are those of the pooled data for every split.
    """

    normalise: Annotated[bool, Option("divide features by their Euclidean norm, before they are summed")] = True
    random: Annotated[int, Option("M, the number of random features relu(R z); 0 for none", low=0)] = 0

    @property
    def features(self) -> FeatureMap:
        """Folded, normalised and random features, as far as the settings ask for them."""
        return FeatureMap(self.normalise, self.random, project=self.folds_into, clip=self.clip)

    def statistic(self, phase: Phase) -> FeatureSums:
        """Sums and counts of classes; no Gram matrix."""
        return FeatureSums(phase.task, replace(self.features, seed=phase.seed), gram=False)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """Deploy the means as a linear head: -||phi - mean||^2 / 2 less ||phi||^2 / 2, the same for all classes."""
        rows: dict[str, np.ndarray] = {}
        for task in range(phase.task.index + 1):
            count = state[SUMS][counts(task)]
            means = class_means(state[SUMS][class_sums(task)], count)
            rows |= {head.weight(task): means, head.bias(task): biases(count, -np.square(means).sum(1) / 2)}
        return {**as_float32(rows), **self.maps(state, phase, feature_width(state))}
