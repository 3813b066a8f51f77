"""TSV-M: add up the changes, their singular vectors orthogonalised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fcil.merging.expert import Expert, check_compatible, relative_weights
from fcil.merging.lowrank import LowRank
from fcil.merging.spectral import tsv_m

from ._merging import Draw, MergeMethod, Scale

__all__ = ["Tsv"]


@dataclass(frozen=True, kw_only=True)
class Tsv(MergeMethod):
    """Add up the changes, their singular vectors orthogonalised.

    TSV-M: singular vectors of all changes made orthogonal, singular values kept; in factors, rank-aware.
    Gargiulo et al., "Task singular vectors", CVPR 2025, arXiv 2412.00081. Over a round's clients use it with care: they
    share a start, their vectors are nearly the same, and small differences come out at full strength.
    Literal transcription: `tests/reference_spectral.py`, `tsv_m`.
    """

    scale: Scale = 1.0

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Merge layer by layer; a client's change counts by its examples."""
        weights = relative_weights(experts)
        for layer in check_compatible(experts):
            yield layer, tsv_m([expert.changes[layer] for expert in experts], weights).times(self.scale)
