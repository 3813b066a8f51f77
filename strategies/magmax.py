"""MagMax: keep at every entry the task's change of largest magnitude."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from fcil.merging.expert import Expert, check_compatible
from fcil.merging.sparse import mag_max
from fcil.options import Option

from ._merging import Draw, MergeMethod, Scale

__all__ = ["MagMax"]


@dataclass(frozen=True, kw_only=True)
class MagMax(MergeMethod):
    """Keep at every entry the task's change of largest magnitude.

    Of every entry the task's change of largest magnitude; tasks are learned one after the other in one module.
    Marczak et al., "MagMax: leveraging model merging for seamless continual learning", ECCV 2024, arXiv 2407.06322.
    Literal transcription: `tests/reference_spectral.py`, `mag_max`.
    """

    entrywise: ClassVar[bool] = True

    start: Annotated[
        Literal["fresh", "last"], Option("a task's module begins anew, or where the last task's ended as in the paper")
    ] = "last"
    scale: Scale = 0.5

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Merge layer by layer, dense; examples do not count."""
        for layer in check_compatible(experts):
            yield layer, self.scale * mag_max([expert.changes[layer] for expert in experts])
