"""RegMean: match the layer responses of all experts by least squares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.merging.expert import Expert, check_compatible
from fcil.merging.lowrank import LowRank
from fcil.merging.weighted import gram_mean
from fcil.method import Kind, Statistic
from fcil.options import Option
from fcil.statistics.gram_form import GramForm

from ._idle import refuse_idle
from ._merging import Draw, MergeMethod

__all__ = ["RegMean"]


@dataclass(frozen=True, kw_only=True)
class RegMean(MergeMethod):
    """Match the layer responses of all experts by least squares.

    (sum_i B_i A_i G_i)(sum_i G_i)^+ with G_i the Gram matrix of a layer's inputs, in factors.
    Jin et al., "Dataless knowledge fusion by merging weights of language models", ICLR 2023, arXiv 2212.09849. Grams
    are sums over tokens, so that an expert counts by its data: there is no other weight. They are taken through the
    expert's own model, over a task through the one that the task's rounds ended with.
    Literal transcription: `tests/reference.py`, `match`.
    """

    gram: Annotated[
        Literal["full", "diagonal"], Option("G_i whole, in (in + 1) / 2 floats a layer, or its diagonal, in floats")
    ] = "full"
    shrink: Annotated[
        float, Option("off-diagonals of G_i are multiplied by it; FusionBench's value for CLIP ViTs", low=0, high=1)
    ] = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gram == "diagonal":
            refuse_idle(self, {"shrink": 'gram = "diagonal" has no entries beside the diagonal'})

    @property
    def is_mean(self) -> bool:
        """A weighted mean of equal experts is that expert, in rounds too."""
        return True

    def reports(self, kind: Kind) -> tuple[Statistic, ...]:
        """Report every expert's Gram matrices."""
        return (GramForm(self.gram).statistic,)

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Merge layer by layer, in factors."""
        form = GramForm(self.gram)
        for layer in check_compatible(experts):
            grams = [form.read(expert.statistics, layer) for expert in experts]
            yield layer, gram_mean([expert.changes[layer] for expert in experts], grams, self.shrink)
