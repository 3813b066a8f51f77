"""ER, experience replay: clients train on some of their own earlier samples too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fcil.method import Client, Phase, Step
from fcil.options import Option

from ._adapters import AdapterAveraging
from ._buffer import BUFFER, Rule, close, drawn, insert

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ER"]


@dataclass(frozen=True, kw_only=True)
class ER(AdapterAveraging):
    """Average what trains on the current task and on samples clients have kept.

    A step takes a batch B of the current task and as many samples M of the client's buffer, augmented anew:

        CE_B + weight CE_M

    Then B is offered to the buffer, every sample once, however many epochs and rounds a task has. Chaudhry et al., "On
    tiny episodic memories in continual learning", arXiv 1902.10486, with its reservoir, or a buffer balanced by class.
    CE_M is over all classes seen, CE_B over the current task's alone, so that images do not push down logits of old
    classes (as ER-ACE, Caccia et al., ICLR 2022, arXiv 2104.05025); `current` = "seen" takes all classes there too.

    Kept by a client, and never sent: `size` of its own samples, of all tasks together, un-augmented: as indices here, 8
    bytes each, which stand for as many images (30 MB for 200 of 224 x 224). Sent: as in federated averaging, and the
    old classes' head rows, which train too.

    Unlike the paper: a buffer per client, federated; the two means are added, where the paper takes the mean of the
    union, which is half of that; LoRA by default. With size = 0 or weight = 0 it is federated averaging bit for bit.
    Literal transcription: `tests/reference_baselines.py`.
    """

    size: Annotated[int, Option("samples that a client keeps, of all tasks together", low=0)] = 200
    weight: Annotated[float, Option("weight of the loss on kept samples", low=0)] = 1.0
    buffer: Annotated[Rule, Option("which samples are kept: any with equal chance, or as many of each class")] = (
        "reservoir"
    )
    current: Annotated[
        Literal["task", "seen"], Option("classes of the loss on the current batch: the task's, or all seen")
    ] = "task"

    @property
    def replays(self) -> bool:
        """Tell whether anything is kept and trained on."""
        return self.size > 0 and self.weight > 0

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The rows of all classes seen: the loss on kept samples is over all of them."""
        wide = self.replays or self.current == "seen"
        return tuple(range(phase.task.index + 1)) if wide else super().head_tasks(phase)

    def loss(self, step: Step) -> Tensor:
        """Cross-entropy on the batch, and over all classes seen on as many kept samples."""
        from torch.nn import functional as F

        loss, client, model = step.cross_entropy(), step.client, step.model
        if self.current == "seen":
            loss = F.cross_entropy(model.logits(step.features), step.labels)
        if not self.replays:
            return loss
        places = drawn(client, len(step.samples), "replay")
        if len(places):
            samples = client.store[BUFFER][places]
            logits = model.logits(model.features(client.images(samples, augment=True)))
            loss = loss + self.weight * F.cross_entropy(logits, client.labels(samples))
        insert(client, step.samples, self.size, self.buffer)
        return loss

    def client_end(self, client: Client) -> None:
        """Note that the task's samples have been offered to the buffer."""
        close(client)
