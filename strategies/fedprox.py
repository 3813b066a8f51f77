"""FedProx: federated averaging of models that train under a pull towards the round's broadcast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fcil.method import Step
from fcil.options import Option

from ._adapters import AdapterAveraging

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FedProx"]


@dataclass(frozen=True, kw_only=True)
class FedProx(AdapterAveraging):
    """Average what trains under a penalty on the distance to the broadcast.

    A client minimises, over all arrays w that train (adapter and the current head rows),

        F_k(w) + mu / 2 |w - w^r|^2

    with w^r as it was broadcast in this round, not as it was at the last task's end. Li et al., "Federated
    optimization in heterogeneous networks", MLSys 2020, arXiv 1812.06127, Algorithm 2. The term is part of the loss, so
    that mixed precision and AdamW treat it as any gradient; it is no weight decay. With mu = 0 it is federated
    averaging bit for bit. Sent: as in federated averaging. Kept by a client: nothing.

    Unlike the paper: LoRA by default, `adapter = "full"` for its full weights; F_k is cross-entropy masked to the
    current task's classes; clients are drawn evenly and weighted by examples, where the paper draws them by examples
    and takes the plain mean; every client trains all epochs, where the paper admits partial work; AdamW or SGD by
    [train]. The paper tunes mu over 0.001, 0.01, 0.1 and 1. Literal transcription: `tests/reference_baselines.py`.
    """

    mu: Annotated[float, Option("strength of the pull towards the round's broadcast", low=0)] = 0.01

    def loss(self, step: Step) -> Tensor:
        """Masked cross-entropy, and mu / 2 times the squared distance over all that trains."""
        trained = {name: leaf for name, leaf in step.model.arrays.items() if leaf.requires_grad}
        distance = sum((leaf - step.constant(name)).square().sum() for name, leaf in trained.items())
        return step.cross_entropy() + self.mu / 2 * distance
