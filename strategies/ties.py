"""TIES: trim each change, elect signs, average entries that agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fcil.merging.expert import Expert
from fcil.merging.ties import Entries, trim_elect_merge
from fcil.options import Option

from ._merging import Draw, MergeMethod, Scale

__all__ = ["Ties"]


@dataclass(frozen=True, kw_only=True)
class Ties(MergeMethod):
    """Trim each change, elect signs, average entries that agree.

    Entry by entry the mean of the changes that have the elected sign, of the largest entries of each.
    Yadav et al., "TIES-merging", NeurIPS 2023, arXiv 2306.01708, on changes, LoRA's B_i A_i. Votes and means are
    weighted by examples over a round's clients, and alike over tasks, as in the paper.
    Literal transcription: `tests/reference_ties.py`, `ties`.
    """

    entrywise: ClassVar[bool] = True

    top: Annotated[float, Option("share of an expert's entries that stays, over all layers", above=0, high=1)] = 0.2
    scale: Scale = 1.0

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Merge the dense changes by TIES."""
        return trim_elect_merge(Entries(experts), self.top, self.scale)
