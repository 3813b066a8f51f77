"""FedEx-LoRA: average A and B, and fold the error into the base weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import State, weighted_mean
from fcil.merging.lowrank import LowRank, stacked, truncated
from fcil.method import ClientUpdate, Phase
from fcil.model.lora import A, B
from fcil.options import Option

from ._folding import FoldingMethod
from ._mixed import products

__all__ = ["FedEx", "residual"]


def residual(pairs: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """sum_i w_i B_i A_i - (sum_i w_i B_i)(sum_i w_i A_i), exactly, with (n - 1) r components.

    It is the covariance sum_i w_i (B_i - B*)(A_i - A*) around the means. The centred A_i, weighted, sum to zero, which
    rids it of one client:  sum_{i < n} w_i (B_i - B_n)(A_i - A*).

    Args:
        pairs: of one rank.
        weights: summing to one.
    """
    mean = np.sum([w * pair.a.astype(np.float64) for w, pair in zip(weights, pairs, strict=True)], axis=0)
    *others, last = pairs
    if not others:
        return LowRank(np.zeros((last.shape[0], 0)), np.zeros((0, last.shape[1])))
    centred = [LowRank(np.subtract(p.b, last.b, dtype=np.float64), p.a - mean) for p in others]
    return stacked(centred, weights[:-1])


@dataclass(frozen=True, kw_only=True)
class FedEx(FoldingMethod):
    """Average A and B, and fold the error into the base weights.

    FedAvg of A and of B, made exact: W0 takes up the mean of B_i A_i less the product of the means.
    Singhal et al., "FedEx-LoRA: exact aggregation for federated and efficient fine-tuning of foundation models", ACL
    2025, arXiv 2410.09432. Down go the means, r (out + in) floats a layer, and the residual, (n - 1) r (out + in).
    Literal transcription: `tests/reference_peers.py`, `fedex_residual`.
    """

    residual_rank: Annotated[
        int, Option("components of a round's residual that are kept, the largest first; 0 keeps all", low=0)
    ] = 0

    @property
    def additive(self) -> bool:
        """The residual needs every client's pair."""
        return False

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """Average all that trained, and fold the residual.

        Raises:
            MergeError: nobody has any examples.
        """
        updates = sorted(updates, key=lambda u: u.client)
        means = weighted_mean([u.arrays for u in updates], [u.num_examples for u in updates])
        pairs, weights = products(updates)
        folds = {layer: self._kept(residual(changes, weights)) for layer, changes in pairs.items()}
        rows = {name: a for name, a in means.items() if not name.endswith((A, B))}
        return self.folded(state, means, folds, rows)

    def _kept(self, change: LowRank) -> LowRank:
        cut = self.residual_rank and self.residual_rank < change.rank
        return truncated(change, self.residual_rank)[0] if cut else change
