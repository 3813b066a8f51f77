"""Consensus task arithmetic: add up the changes at the entries that several tasks need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fcil.merging.expert import Expert, check_compatible, relative_weights
from fcil.merging.sparse import consensus_ta
from fcil.options import Option

from ._merging import Draw, MergeMethod, Scale

__all__ = ["Consensus"]


@dataclass(frozen=True, kw_only=True)
class Consensus(MergeMethod):
    """Add up the changes at the entries that several tasks need.

    Consensus TA: task arithmetic on the entries that at least `agree` tasks need; the others stay as they were.
    Wang et al., "Localizing task information for improved model merging and compression", ICML 2024, arXiv 2405.07813.
    The paper picks the threshold of each task in 0.2..0.6 on validation data; here one value holds for all.
    Literal transcription: `tests/reference_spectral.py`, `consensus_ta`.
    """

    entrywise: ClassVar[bool] = True

    threshold: Annotated[
        float, Option("lambda: a task needs an entry where |its change| >= lambda |the others' sum|", low=0)
    ] = 0.4
    agree: Annotated[
        int, Option("k: tasks that must need an entry, of fewer all of them; 0 is task arithmetic", low=0)
    ] = 2
    scale: Scale = 1.0

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Merge layer by layer, dense; a client's change counts by its examples."""
        weights = relative_weights(experts)
        for layer in check_compatible(experts):
            changes = [expert.changes[layer] for expert in experts]
            agree = min(self.agree, len(changes))  # more than there are would leave nothing of any change
            yield layer, self.scale * consensus_ta(changes, weights, self.threshold, agree)
