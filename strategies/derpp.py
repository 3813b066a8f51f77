"""DER++: replay of a client's own earlier samples, with the logits that the model gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from fcil.method import Client, Phase, Step
from fcil.options import Option

from ._adapters import AdapterAveraging
from ._buffer import BUFFER, Rule, close, drawn, insert

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DERpp"]

LOGITS, COLUMNS = "buffer.logits", "buffer.columns"
"""In a client's store: logits of its kept samples, (kept, classes) float32; of a row the first `columns` are known."""


@dataclass(frozen=True, kw_only=True)
class DERpp(AdapterAveraging):
    """Average what trains on the task and on kept samples with their old logits.

    A step takes a batch of the current task, and from the client's buffer two draws (x', z') and (x'', y'') of as many
    samples, augmented anew; z(x) are the logits over all classes seen:

        L_i + alpha mean (z(x') - z')^2 + beta CE(z(x''), y'')

    Then the batch is offered to the buffer, a reservoir, with the logits that it has just been given. Buzzega et al.,
    "Dark experience for general continual learning", NeurIPS 2020, arXiv 2004.07211, Algorithm 2.

    Kept by a client, and never sent: `size` of its own samples, un-augmented (as indices, 8 bytes each, which stand for
    as many images: 30 MB for 200 of 224 x 224), and a logit per sample and class seen, float32. Sent: as in federated
    averaging, and the old classes' head rows, which train too.

    Unlike the paper: a buffer per client, federated; a sample is offered once, in its first epoch, where public code
    counts it again in every epoch; L_i is masked to the current task's classes; the mean square is over the classes
    that were seen when a sample came, where the paper's head has untrained columns for all later ones; LoRA by default.
    With size = 0, or alpha = beta = 0, it is federated averaging bit for bit. Literal transcription:
    `tests/reference_baselines.py`.
    """

    size: Annotated[int, Option("samples that a client keeps, of all tasks together", low=0)] = 200
    alpha: Annotated[float, Option("weight of the distance to the kept logits", low=0)] = 0.5
    beta: Annotated[float, Option("weight of the cross-entropy on kept samples", low=0)] = 0.5
    buffer: Annotated[Rule, Option("which samples are kept: any with equal chance, or as many of each class")] = (
        "reservoir"
    )

    @property
    def replays(self) -> bool:
        """Tell whether anything is kept and trained on."""
        return self.size > 0 and (self.alpha > 0 or self.beta > 0)

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The rows of all classes seen: kept samples are compared over all of them."""
        return tuple(range(phase.task.index + 1)) if self.replays else super().head_tasks(phase)

    def loss(self, step: Step) -> Tensor:
        """Masked cross-entropy, the distance to kept logits, and cross-entropy on kept samples."""
        if not self.replays:
            return step.cross_entropy()
        loss, client, batch = step.cross_entropy(), step.client, len(step.samples)
        if self.alpha and len(places := drawn(client, batch, "logits")):
            loss = loss + self.alpha * self._distance(client, places)
        if self.beta and len(places := drawn(client, batch, "replay")):
            loss = loss + self.beta * self._cross_entropy(client, places)
        self._keep(step, insert(client, step.samples, self.size, self.buffer))
        return loss

    @staticmethod
    def _logits(client: Client, places: np.ndarray) -> Tensor:
        images = client.images(client.store[BUFFER][places], augment=True)
        return client.model.logits(client.model.features(images))

    def _distance(self, client: Client, places: np.ndarray) -> Tensor:
        """Mean of (z - z')^2 over samples and the classes that were known of each."""
        logits = self._logits(client, places)
        old = logits.new_tensor(client.store[LOGITS][places])
        is_class = np.arange(old.shape[1]) < client.store[COLUMNS][places][:, None]
        mask = logits.new_tensor(is_class)
        return ((logits[:, : old.shape[1]] - old).square() * mask).sum() / mask.sum()

    def _cross_entropy(self, client: Client, places: np.ndarray) -> Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(self._logits(client, places), client.labels(client.store[BUFFER][places]))

    @staticmethod
    def _keep(step: Step, places: Mapping[int, int]) -> None:
        """Write the batch's logits beside the samples that have come into the buffer."""
        if not places:
            return
        store, length, classes = step.store, len(step.store[BUFFER]), step.phase.task.seen
        logits, columns = np.zeros((length, classes), np.float32), np.zeros(length, np.int64)
        if LOGITS in store:
            rows, width = store[LOGITS].shape
            logits[:rows, :width], columns[:rows] = store[LOGITS], store[COLUMNS]
        batch = step.model.logits(step.features).detach().float().cpu().numpy()
        for place, position in places.items():
            logits[place], columns[place] = batch[position], classes
        store[LOGITS], store[COLUMNS] = logits, columns

    def client_end(self, client: Client) -> None:
        """Note that the task's samples have been offered to the buffer."""
        close(client)
