"""DualPrompt: one general prefix for all tasks, and one of each task, found by its key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fcil.method import Phase, Step
from fcil.model.dual_prompts import GENERAL, DualPrompts
from fcil.model.prompt_pool import COSINES
from fcil.options import Option

from ._prompts import PrefixMethod

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DualPrompt"]


@dataclass(frozen=True, kw_only=True)
class DualPrompt(PrefixMethod):
    """Average a general prefix and one of each task, found by its key.

    Wang et al., "DualPrompt: complementary prompting for rehearsal-free continual learning", ECCV 2022, arXiv
    2204.04799, federated. With q(x) an image's feature in the frozen network, and prefixes G and E_t beside keys and
    values of the first layers and of those that follow:

        training on task t    slot t for all images;   loss = cross-entropy - pull * mean_x cos(q(x), k_t)
        prediction            slot argmax_t cos(q(x), k_t) of each image

    Sent in both directions in every round: G, E_t, k_t and the head's new rows; the slots of earlier tasks go down once
    to each client, and keep their bits. Clients keep nothing. A slot begins as a copy of the one before (`copy`), its
    key anew, as in public code. Differs from the paper: cross-entropy over the current task's classes; no cut of
    gradients. Slots are chosen image by image, also in testing, where public code has a batch vote (CIFAR-100's
    settings) and mixes the key and value prefixes of a batch's images. Literal transcription:
    `tests/reference_pools.py`, `dualprompt`.
    """

    length: Annotated[int, Option("rows of a task's prefix beside keys, and as many beside values", low=1)] = 20
    general_length: Annotated[int, Option("rows of the general prefix, likewise", low=1)] = 5
    layers: Annotated[
        tuple[int, ...], Option("layers of the tasks' prefixes, from 1; empty: the three after the general ones", low=1)
    ] = ()
    general_layers: Annotated[
        tuple[int, ...], Option("layers of the general prefix; empty: the first two, of a shallow ViT the first", low=1)
    ] = ()
    copy: Annotated[bool, Option("a task's prefix begins as that of the task before; else at random")] = True
    pull: Annotated[float, Option("weight of the pull of a task's key to queries; lambda in the paper", low=0)] = 1.0

    @property
    def adapter(self) -> DualPrompts:
        """Return the prefixes that the method trains."""
        return DualPrompts(
            self.prefix == "projected", self.general_length, self.length, self.general_layers, self.layers, self.copy
        )

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """The general prefix, and the current task's slot."""
        return (GENERAL, *super().trains(phase))

    def loss(self, step: Step) -> Tensor:
        """Cross-entropy over the current task's classes, less the cosine of queries with the task's key."""
        loss = step.cross_entropy()
        return loss - self.pull * step.outputs[COSINES].mean() if self.pull else loss
