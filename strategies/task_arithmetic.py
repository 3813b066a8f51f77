"""Task arithmetic: add up or average the tasks' changes, and scale the result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fcil.merging.expert import Expert, check_compatible, relative_weights, shares
from fcil.merging.lowrank import LowRank, stacked
from fcil.options import Option

from ._merging import Draw, MergeMethod, Scale

__all__ = ["TaskArithmetic"]


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(MergeMethod):
    """Add up or average the tasks' changes, and scale the result.

    lambda times the sum of the changes B_i A_i, or their mean: exact in factors, unlike a mean of A and of B.
    Ilharco et al., "Editing models with task arithmetic", ICLR 2023, arXiv 2212.04089. Over a round's clients both
    are weighted by examples; the mean with `scale` = 1 is FedAvg of the products. Literal transcription:
    `tests/reference.py`, `fedavg` of the products over clients, `mean_of_tasks` over tasks.
    """

    entrywise: ClassVar[bool] = True

    scale: Scale = 1.0
    sum: Annotated[Literal["mean", "sum"], Option("the changes' mean, or their sum as in the paper")] = "mean"

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Sum the weighted B_i A_i times lambda, in factors."""
        weights = list(shares(experts)) if self.sum == "mean" else relative_weights(experts)
        for layer in check_compatible(experts):
            yield layer, stacked([e.changes[layer] for e in experts], [self.scale * w for w in weights])
