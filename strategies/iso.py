"""Iso-C and Iso-CTS: add up the changes and flatten the sum's singular values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.merging.expert import Expert, check_compatible, relative_weights
from fcil.merging.lowrank import LowRank
from fcil.merging.spectral import iso_c, iso_cts
from fcil.model.lora import Lora
from fcil.options import Option

from ._idle import refuse_idle
from ._merging import Draw, MergeMethod, Scale

__all__ = ["Iso"]


@dataclass(frozen=True, kw_only=True)
class Iso(MergeMethod):
    """Add up the changes and flatten the sum's singular values.

    The sum of the changes with a flat spectrum (Iso-C), with directions of single tasks (Iso-CTS); rank-aware.
    Marczak et al., "No task left behind: isotropic model merging with common and task-specific subspaces", ICML 2025,
    arXiv 2502.04959. The sum grows with what is summed: over a round's n clients set `scale` near 1 / n.
    Literal transcription: `tests/reference_spectral.py`, `iso_c` and `iso_cts`.
    """

    variant: Annotated[Literal["c", "cts"], Option("Iso-C or Iso-CTS")] = "c"
    common: Annotated[
        float, Option("cts: share of the sum's components that stay; the rest goes to single tasks", low=0, high=1)
    ] = 0.8
    scale: Scale = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "c":
            refuse_idle(self, {"common": 'only variant = "cts" tells common components from single tasks\''})

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Merge layer by layer; a client's change counts by its examples."""
        return self._flat(experts, None)

    def combine_round(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Merge into no more components than a pair can hold: a flat spectrum has no leading ones to keep.

        An adapter without factors holds any number.
        """
        return self._flat(experts, self.rank if isinstance(self.adapter, Lora) else None)

    def _flat(self, experts: Sequence[Expert], rank: int | None) -> Iterator[tuple[str, LowRank]]:
        weights = relative_weights(experts)
        for layer in check_compatible(experts):
            changes = [expert.changes[layer] for expert in experts]
            if self.variant == "c":
                merged = iso_c(changes, weights, rank)
            else:
                merged = iso_cts(changes, weights, self.common, rank)
            yield layer, merged.times(self.scale)
