"""FlexLoRA: average the products B A; cut to each client's rank by SVD."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fcil.arrays import State, as_float32
from fcil.merging.lowrank import stacked, truncated
from fcil.method import ClientUpdate, Local, Modules, Phase
from fcil.model.lora import A, B, revive_dead_components

from ._lora import LoraMethod
from ._mixed import RankSettings, leading, mean_of_the_rest, products

__all__ = ["FlexLoRA"]


@dataclass(frozen=True, kw_only=True)
class FlexLoRA(RankSettings, LoraMethod):
    """Average the products B A; cut to each client's rank by SVD.

    The mean of B_i A_i, weighted by examples, is exact; what goes on are its best components, as many as fit.
    Bai et al., "Federated fine-tuning of large language models under heterogeneous tasks and client resources", NeurIPS
    2024, arXiv 2402.11505. By QR and SVD of stacked factors; no product of a layer's size is formed.
    Literal transcription: `tests/reference_peers.py`, `best_of_rank`.
    """

    @property
    def additive(self) -> bool:
        """Products of different ranks are stacked, not summed."""
        return False

    def local(self, phase: Phase) -> Local:
        """Train the leading components of both factors, and the head's new rows."""
        return replace(super().local(phase), receives=lambda a, client: leading(a, self.rank_of(client)))

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """B = U s^1/2 and A = s^1/2 V^T of sum_i w_i B_i A_i, largest components first.

        Raises:
            MergeError: nobody has any examples.
        """
        rest = mean_of_the_rest(updates)
        pairs, weights = products(updates)
        module: dict[str, np.ndarray] = {}
        for layer, changes in pairs.items():
            best = revive_dead_components(truncated(stacked(changes, weights), self.rank)[0], layer, phase.generator)
            module |= {layer + A: best.a, layer + B: best.b}
        return Modules.of(state).with_module(as_float32(module), rest)
