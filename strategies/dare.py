"""DARE: drop entries of changes at random, rescale the rest, merge."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from fcil.merging.expert import Expert, expert_number
from fcil.merging.ties import Entries, entrywise_mean, trim_elect_merge
from fcil.options import Option

from ._idle import refuse_idle
from ._merging import Draw, MergeMethod, Scale

__all__ = ["Dare"]


@dataclass(frozen=True, kw_only=True)
class Dare(MergeMethod):
    """Drop entries of changes at random, rescale the rest, merge.

    Every entry of a change is dropped with probability p, the others divided by 1 - p; then their mean, or TIES.
    Yu et al., "Language models are super Mario", ICML 2024, arXiv 2311.03099, on the products B_i A_i. The default p
    is the one that KnOTS (arXiv 2410.19735) found for LoRA on ViT-B; for whole weights DARE goes up to 0.99.
    Literal transcription: `tests/reference_ties.py`, `thinned`.
    """

    entrywise: ClassVar[bool] = True

    drop: Annotated[float, Option("p, the share of entries dropped; below 1", low=0, high=0.999)] = 0.2
    reduce: Annotated[Literal["mean", "ties"], Option("how the thinned changes are merged")] = "mean"
    top: Annotated[float, Option("for ties: share of an expert's entries that stays", above=0, high=1)] = 1.0
    scale: Scale = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduce == "mean":
            refuse_idle(self, {"top": 'only reduce = "ties" trims'})

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Merge the thinned dense changes by their mean or TIES; every expert and layer has a mask of its own."""
        entries = Entries(experts, self.drop, lambda place, layer: draw("mask", expert_number(experts, place), layer))
        if self.reduce == "mean":
            return entrywise_mean(entries, self.scale)
        return trim_elect_merge(entries, self.top, self.scale)
