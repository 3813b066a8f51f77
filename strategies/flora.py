"""FLoRA: stack clients' LoRA pairs; fold them into the base weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.lowrank import stacked
from fcil.method import ClientUpdate, Local, Modules, Phase
from fcil.model.lora import A, uniform

from ._folding import FoldingMethod
from ._mixed import RankSettings, leading, mean_of_the_rest, products

__all__ = ["FLoRA"]


@dataclass(frozen=True, kw_only=True)
class FLoRA(RankSettings, FoldingMethod):
    """Stack clients' LoRA pairs; fold them into the base weights.

    [B_1 ... B_n] [w_1 A_1 ; ... ; w_n A_n] is the mean of B_i A_i, weighted by examples, exactly and at any ranks.
    Wang et al., "FLoRA: federated fine-tuning large language models with heterogeneous low-rank adaptations", NeurIPS
    2024, arXiv 2409.05976. Down go all clients' factors, n r (out + in) floats a layer. The new pair's A is drawn from
    the round's seed, which everybody knows, and B is zero: neither travels again. Literal transcription:
    `tests/reference.py`, `fedavg`, of the products.
    """

    @property
    def additive(self) -> bool:
        """Pairs are stacked, not summed."""
        return False

    def local(self, phase: Phase) -> Local:
        """Train a pair that is new in every round."""

        def start(arrays: Arrays, client: int) -> dict[str, np.ndarray]:
            rng = phase.generator("new pair")
            new = {n: uniform(rng, a.shape) for n, a in arrays.items() if n.endswith(A)}
            return leading({**arrays, **new}, self.rank_of(client))

        return replace(super().local(phase), receives=start)

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """Fold the stack, client by client; the pair in the state stays at zero.

        Raises:
            MergeError: nobody has any examples.
        """
        updates = sorted(updates, key=lambda u: u.client)
        rest = mean_of_the_rest(updates)
        pairs, weights = products(updates)
        folds = {layer: stacked(changes, weights) for layer, changes in pairs.items()}
        return self.folded(state, leading(Modules.of(state).module, self.rank), folds, rest)
