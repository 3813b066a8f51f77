"""Model Kinship: merge the most promising models in pairs, over generations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.errors import MergeError
from fcil.merging.expert import Expert, check_compatible
from fcil.merging.kinship import evolve
from fcil.merging.lowrank import LowRank, stacked
from fcil.merging.similarity import grams
from fcil.options import Option

from ._merging import Draw, MergeMethod

__all__ = ["Kinship"]


@dataclass(frozen=True, kw_only=True)
class Kinship(MergeMethod):
    """Merge the most promising models in pairs, over generations.

    Pairs of the most promising models are merged by SLERP, generation by generation; the best one is deployed.
    Top-k greedy merging with Model Kinship, Hu et al., EMNLP Findings 2025, arXiv 2410.12613. The paper ranks models by
    accuracy on evaluation data, which a class-incremental server has not got: here by their smallest kinship (cosine)
    to any of the experts. Experts count alike; those without examples do not count.
    Literal transcription: `tests/reference_peers.py`, `evolve`.
    """

    top: Annotated[int, Option("models of a generation that become parents, k", low=2)] = 3
    generations: Annotated[int, Option("generations of merging, at most", low=0)] = 10
    near: Annotated[float, Option("pairs whose kinship reaches it are not merged", low=-1, high=1)] = 0.95

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Deploy the fittest linear combination of the changes, in factors."""
        names = check_compatible(experts)
        changes = [expert.changes for expert in experts if expert.weight > 0]
        if not changes:
            raise MergeError("nothing to merge: no expert has any examples")
        products = grams([{layer: model[layer] for layer in names} for model in changes])
        coefficients = evolve(np.array([products[layer] for layer in names]), self.top, self.generations, self.near)
        for layer, row in zip(names, coefficients, strict=True):
            used = np.flatnonzero(row)
            yield layer, stacked([changes[i][layer] for i in used], [float(row[i]) for i in used])
