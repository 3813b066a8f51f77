"""RanPAC: ridge regression on random features of a frozen backbone."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from torch import Tensor

from fcil.arrays import Arrays, State
from fcil.method import Phase
from fcil.model.adapted import SCORES, AdaptedModel
from fcil.options import Option
from fcil.statistics.features import FeatureMap, FeatureSums, projection

from .ridge import Ridge

__all__ = ["RanPAC"]

PROJECTION = SCORES + "projection"


@dataclass(frozen=True, kw_only=True)
class RanPAC(Ridge):
    """Ridge regression on relu(R z), R ~ N(0, 1) being drawn from the run's seed and never sent.

    McDonnell et al., "RanPAC: random projections and pre-trained models for continual learning", NeurIPS 2023, arXiv
    2307.02251 (centralised, M = 10,000); federated with M = 1,250 in STSA, arXiv 2506.01327; the sketch is FedRAN's,
    arXiv 2606.11480.
    """

    size: Annotated[int, Option("M, the number of random features; 0 for the features as they are", low=0)] = 1250
    sketch: Annotated[int, Option("k: G is sent as its factor of rank k, k M numbers; 0 sends all of it", low=0)] = 0

    def feature_map(self, seed: int) -> FeatureMap:
        """relu(R z)."""
        return FeatureMap(random=self.size, seed=seed)

    def statistic(self, phase: Phase) -> FeatureSums:
        """G whole, or its factor."""
        return replace(super().statistic(phase), sketch=self.sketch)

    def input_width(self, state: State) -> int:
        """Length of z."""
        return int(next(iter(state["rows"].values())).shape[1])

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The head, and R."""
        r = projection(phase.seed, self.size, self.input_width(state))
        return {**super().deploy(state, phase), PROJECTION: np.array(r)}

    def scores(self, model: AdaptedModel, images: Tensor) -> Tensor:
        """The head on relu(R z)."""
        phi = FeatureMap(random=self.size).apply(model.features(images), model.arrays[PROJECTION])
        return model.logits(phi.float())
