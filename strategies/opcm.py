"""OPCM: add each task's change orthogonally to the earlier ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.merging.expert import Expert, check_compatible
from fcil.merging.lowrank import LowRank, inner
from fcil.merging.spectral import project_and_add
from fcil.options import Option

from ._merging import Draw, MergeMethod

__all__ = ["Opcm"]


@dataclass(frozen=True, kw_only=True)
class Opcm(MergeMethod):
    """Add each task's change orthogonally to the earlier ones.

    Orthogonal projection-based continual merging: in the tasks' order, scaled to their mean norm; rank-aware.
    Tang et al., "Merging models on the fly without retraining", NeurIPS 2025, arXiv 2501.09522. A round's clients have
    no order, so it merges tasks only.
    Literal transcription: `tests/reference_spectral.py`, `opcm`.
    """

    at: Annotated[Literal["task"], Option("what is merged: tasks' modules")] = "task"
    alpha: Annotated[
        float, Option("share of the sum's singular values whose space is closed to later tasks", low=0, high=1)
    ] = 0.5

    @property
    def merges(self) -> str:
        """Tasks only: a round's clients have no order."""
        return "tasks"

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, LowRank]]:
        """Merge all layers in factors, scaled by one factor for all of them."""
        names = check_compatible(experts)
        sums = {layer: project_and_add([e.changes[layer] for e in experts], self.alpha) for layer in names}
        wanted = float(np.mean([_norm(list(expert.changes.values())) for expert in experts]))
        norm = _norm(list(sums.values()))
        for layer, total in sums.items():
            yield layer, total.times(wanted / norm if norm else 0.0)


def _norm(changes: Sequence[LowRank]) -> float:
    """Frobenius norm of the changes of all layers together."""
    return float(np.sqrt(sum(max(inner(change, change), 0.0) for change in changes)))
