"""L2P: a pool of prompts, of which every image gets those whose keys are nearest to its feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from fcil.method import Averaging, Step
from fcil.model.prompt_pool import COSINES, PromptPool
from fcil.options import Option

from ._prompts import REFUSED
from ._server import ServerSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["L2P"]


@dataclass(frozen=True, kw_only=True)
class L2P(ServerSettings, Averaging):
    """Average a pool of prompts, of which each image takes the nearest.

    Wang et al., "Learning to prompt for continual learning", CVPR 2022, arXiv 2112.08654, federated. q(x) is an image's
    feature in the frozen network without prompts, k_m and P_m are the pool's keys and prompts, and f(x) is the mean of
    the outputs of the image's own prompts:

        chosen(x) = the N of M keys with the largest cos(q(x), k_m)
        loss      = cross-entropy(head(f(x))) - pull * mean_x sum_(m chosen) cos(q(x), k_m)

    Sent in both directions in every round: the pool, M (L + 1) width floats, and the head's new rows. Clients keep
    nothing. Differs from the paper: cross-entropy is over the current task's classes, as for every method here, which
    public code does by a mask; prompts are chosen image by image, while public code lets a batch vote and so makes an
    image's prediction depend on its neighbours; no count of how often a prompt was chosen, an option of the paper for
    streams with known tasks. Public code has pull = 0.1. Literal transcription: `tests/reference_pools.py`, `l2p`.
    """

    refused: ClassVar[Mapping[str, str]] = REFUSED

    size: Annotated[int, Option("M, prompts of the pool", low=1)] = 10
    length: Annotated[int, Option("L, tokens of a prompt", "tokens", low=1)] = 5
    top: Annotated[int, Option("N, prompts of an image", low=1)] = 5
    pull: Annotated[float, Option("weight of the pull of chosen keys to queries; lambda in the paper", low=0)] = 0.5

    @property
    def adapter(self) -> PromptPool:
        """Return the pool that the method trains."""
        return PromptPool(self.size, self.length, self.top)

    def loss(self, step: Step) -> Tensor:
        """Cross-entropy over the current task's classes, less the cosines of the chosen keys."""
        loss = step.cross_entropy()
        return loss - self.pull * step.outputs[COSINES].sum(1).mean() if self.pull else loss
