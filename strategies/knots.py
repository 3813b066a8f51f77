"""KnOTS: merge LoRA changes in the basis given by their common SVD."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.merging import knots
from fcil.merging.expert import Expert
from fcil.merging.lowrank import Change
from fcil.merging.shared_basis import merge_in_basis
from fcil.options import Option

from ._idle import refuse_idle
from ._merging import Draw, MergeMethod
from .dare import Dare
from .task_arithmetic import TaskArithmetic
from .ties import Ties

__all__ = ["Knots"]


@dataclass(frozen=True, kw_only=True)
class Knots(MergeMethod):
    """Merge LoRA changes in the basis given by their common SVD.

    Changes are written in one basis per layer, and merged there by TIES, DARE-TIES or a mean; it stays in factors.
    Stoica et al., "Model merging with SVD to tie the knots", ICLR 2025, arXiv 2410.19735. The defaults are those of its
    ViT-B/32 runs: lambda 0.6 and the top 20 % for TIES; 0.7, all entries and p = 0.1 for DARE-TIES. The mean is, as the
    paper proves, task arithmetic.
    Literal transcription: `tests/reference_ties.py`, `knots`.
    """

    reduce: Annotated[Literal["ties", "dare_ties", "mean"], Option("how the coordinates are merged")] = "ties"
    top: Annotated[
        float | None,
        Option("share of an expert's coordinates that stays; 0.2 for ties, else 1, unless given", above=0, high=1),
    ] = None
    scale: Annotated[float | None, Option("lambda; 0.6 for ties, 0.7 for dare_ties, 1 for the mean, unless given")] = (
        None
    )
    drop: Annotated[float, Option("for dare_ties: share of coordinates dropped; below 1", low=0, high=0.999)] = 0.1
    stack: Annotated[
        Literal["columns", "rows"], Option("changes beside each other share U, below each other they share V")
    ] = "columns"

    def __post_init__(self) -> None:
        super().__post_init__()
        idle = {} if self.reduce == "dare_ties" else {"drop": 'only reduce = "dare_ties" drops any'}
        refuse_idle(self, {**idle, "top": 'reduce = "mean" keeps all'} if self.reduce == "mean" else idle)

    @property
    def merge_of_coordinates(self) -> MergeMethod:
        """The merge that works on the coordinates."""
        published = {"ties": (0.2, 0.6), "dare_ties": (1.0, 0.7), "mean": (1.0, 1.0)}
        top, scale = published[self.reduce]
        top, scale = top if self.top is None else self.top, scale if self.scale is None else self.scale
        if self.reduce == "mean":
            return TaskArithmetic(scale=scale)
        if self.reduce == "ties":
            return Ties(top=top, scale=scale)
        return Dare(reduce="ties", top=top, scale=scale, drop=self.drop)

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """Merge the coordinates; return U times them or, for rows, them times V^T."""
        space = knots.column_basis if self.stack == "columns" else knots.row_basis
        return merge_in_basis(space, experts, lambda inside: self.merge_of_coordinates.combine(inside, draw))
