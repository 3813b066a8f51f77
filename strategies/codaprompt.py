"""CODA-Prompt: each image's prefix is a sum of components, weighted by attention to its feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fcil.method import Step
from fcil.model.coda_prompts import KINDS, CodaPrompts
from fcil.model.prefix_adapter import tasks_in
from fcil.options import Option

from ._prompts import PrefixMethod

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CodaPrompt"]


@dataclass(frozen=True, kw_only=True)
class CodaPrompt(PrefixMethod):
    """Average components of prefixes, which each image weights for itself.

    Smith et al., "CODA-Prompt: continual decomposed attention-based prompting", CVPR 2023, arXiv 2211.13218, federated.
    With q(x) an image's feature in the frozen network and * entry by entry, in each of the first five layers

        P(x) = sum_m cos(q(x) * A_m, K_m) P_m,   half of its rows beside the keys, half beside the values
        loss = cross-entropy + mu sum_(B in P, K, A) mean((B B^T - I)^2)

    over the components of this task and those before; only this task's train. The server draws a task's components
    orthogonal to all earlier ones: properly (`start` = "orthogonal"), since invariants then hold, or by the classical
    Gram-Schmidt of public code, which against trained rows leaves cosines of some hundredths.
    Sent in both directions in every round: this task's P, K and A, and the head's new rows; earlier ones go down once,
    and keep their bits. Clients keep nothing. Differs from the paper: cross-entropy over the current task's classes (as
    public code), a constant learning rate. Public code has mu = 0. Literal transcription: `tests/reference_pools.py`,
    `codaprompt`.
    """

    size: Annotated[int, Option("components of a layer, shared out evenly among the tasks", low=1)] = 100
    length: Annotated[int, Option("rows of a prefix beside keys, and as many beside values; L_p / 2", low=1)] = 4
    layers: Annotated[tuple[int, ...], Option("layers with prefixes, from 1; empty: the first five", low=1)] = ()
    start: Annotated[
        Literal["orthogonal", "gram-schmidt"], Option("new components: orthogonal to the old, or as in public code")
    ] = "orthogonal"
    mu: Annotated[float, Option("weight of the penalty on components that are not orthogonal", low=0)] = 0.1

    @property
    def adapter(self) -> CodaPrompts:
        """Return the components that the method trains."""
        exact = self.start == "orthogonal"
        return CodaPrompts(self.prefix == "projected", self.size, self.length, self.layers, exact)

    def loss(self, step: Step) -> Tensor:
        """Cross-entropy over the current task's classes, and the penalty."""
        loss = step.cross_entropy()
        return loss + self.mu * self.penalty(step) if self.mu else loss

    def penalty(self, step: Step) -> Tensor:
        """Sum over layers and P, K, A of the mean of (B B^T - I)^2, B being a row per component."""
        import torch

        penalty = torch.zeros((), device=step.model.device)
        for kind in KINDS:
            rows = torch.cat(list(tasks_in(step.model.arrays, kind).values()), 1).flatten(2)
            off = rows @ rows.mT - torch.eye(rows.shape[1], device=rows.device)
            penalty = penalty + off.square().mean((1, 2)).sum()
        return penalty
