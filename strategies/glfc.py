"""GLFC: exemplars, gradients compensated between old and new classes, and the last model's relations of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.errors import ConfigError
from fcil.method import TRAIN, Backbone, Broadcast, Client, ClientUpdate, Modules, Phase, Step
from fcil.options import Option

from ._adapters import of_one_weight
from ._compensation import compensation, outlook
from ._exemplars import choose, exemplars, with_exemplars
from ._old_model import RIGHT, ChoosesOldModel
from ._teacher import TEACHER, old_logits, old_tasks, teacher_references

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GLFC"]

TASK, CURRENT, WAITING = "glfc.task", "glfc.current", "glfc.waiting"
"""In a client's store: the task that it took part in last, its samples of that task, and those of the task before of
which no exemplars have been chosen."""
ENTROPY, NOTICED = "glfc.entropy", "glfc.noticed"
"""In a client's store: the mean entropy of its last round, and the last task that it has noticed."""


@dataclass(frozen=True, kw_only=True)
class GLFC(ChoosesOldModel):
    """Average what trains on new classes and exemplars, weighted by their errors.

    A client trains on its samples of the task together with its exemplars of earlier ones. With z the logits of the C
    classes seen, and q those of the old model, it minimises over the images n of a batch

        (1 - relation) mean_nc w_n BCE(z_nc, 1(y_n = c)) + relation mean_nc BCE(z_nc, t_nc),
        t_nc = sigmoid(q_nc) for an old class c, else 1(y_n = c)

    BCE of the logit z and the target t is -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)); w_n = |sigmoid(z_ny) - 1| is
    divided by its mean over the batch's old classes, and over its new ones. Without exemplars w_n = 1, and without an
    old model the first term is all. Dong et al., "Federated class-incremental learning", CVPR 2022, arXiv 2203.11473.

    When a client notices a new task, it chooses exemplars of the classes before by herding, under the model that it has
    just received: size / classes that it has seen of each. transition = "entropy" is the paper's: a task is noticed
    when the mean entropy of predictions on the client's own samples has risen by more than `threshold` since its last
    round; until then it trains without the second term. "known" notices every task, of which clients are told here.

    The old model is the last task's last, or with old_model = "best" that of its rounds which was right most often on
    the clients' own samples: each counts right answers of the model it receives, and in a report of the last one.

    The paper's proxy server, old_model = "proxy", RECONSTRUCTS CLIENTS' IMAGES: after the first round of a task each
    client sends, for each of its classes, the gradient of a small network on the sample nearest to the class's mean,
    moved a little; the server finds an image with that gradient by `proxy_steps` steps of L-BFGS. The old model is then
    that of the task's rounds which is right most often on these images (`strategies/_proxy.py`).

    Sent: as in federated averaging, with the head rows of all classes seen; the old model, one down once a task; for
    "best" two numbers up a round; for "proxy" (8,136 + 769 C) C floats up once a task of C classes. Kept by a client,
    and never sent: `size` exemplars and the samples of its last task, un-augmented (as indices, 8 bytes each, which
    stand for as many images); by the server the old model, the best, and the proxy's images.

    Unlike the paper: LoRA by default; exemplars join batches by chance, as in iCaRL; a client that took part in no
    round of a task keeps none of it; herding takes no sample twice, as public code may. Literal transcription:
    `tests/reference_baselines3.py`.
    """

    size: Annotated[
        int, Option("exemplars that a client keeps, of all its classes together; none where it has more classes", low=0)
    ] = 200
    relation: Annotated[
        float, Option("weight of the old model's relations; the first term has the rest", low=0, high=1)
    ] = 0.5
    transition: Annotated[
        Literal["known", "entropy"], Option("how a client notices a new task: it is told, or entropy rises")
    ] = "known"
    threshold: Annotated[float, Option("rise of the mean entropy that tells of a new task", unit="nats", above=0)] = 1.2
    weights: Annotated[
        Literal["equal", "examples"], Option("clients count alike, as in the paper, or by their examples")
    ] = "equal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.old_model == "proxy" and self.transition == "entropy":
            raise ConfigError(
                'method.old_model = "proxy": clients send gradients after the first round of a task, whether they have '
                'noticed it or not; choose method.transition = "known"'
            )

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The rows of all classes seen."""
        return tuple(range(phase.task.index + 1))

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where no client could ever notice a task: entropy is at most log(classes seen)."""
        super().check_phases(phases)
        for task in {phase.task for phase in phases if phase.task.index and self.transition == "entropy"}:
            if math.log(task.seen) <= self.threshold:
                raise ConfigError(
                    f"method.threshold = {self.threshold:g}: in task {task.index + 1} there are {task.seen} classes, "
                    f"whose entropy is at most {math.log(task.seen):.2f}, so that nobody would notice it; choose a "
                    'smaller one, or method.transition = "known"'
                )

    # ---- client half -------------------------------------------------------------------------------------------------

    def client_begin(self, client: Client) -> None:
        """Count what the received model gets right; where the task is noticed choose exemplars of those before."""
        entropy, correct = 0.0, 0
        if self.old_model == "best" or self.transition == "entropy":
            entropy, correct = outlook(client)
        if self.old_model == "best":
            client.statistics[RIGHT] = np.array([correct, len(client.samples)], np.float32)
        if client.phase.kind == TRAIN:
            self._notice(client, entropy)

    def _notice(self, client: Client, entropy: float) -> None:
        store, task, none = client.store, client.phase.task.index, np.zeros(0, np.int64)
        if int(store.get(TASK, -1)) != task:
            waiting = store.get(CURRENT, none)
            store.update({TASK: np.array(task), CURRENT: client.samples.copy(), WAITING: waiting})
        rise = entropy - float(store.get(ENTROPY, 0))
        store[ENTROPY] = np.array(entropy)
        if self.transition == "known" or rise > self.threshold:
            store[NOTICED] = np.array(task)
            if len(store[WAITING]) and self.size:
                choose(client, self.size, store[WAITING])
            store[WAITING] = none

    def loss(self, step: Step) -> Tensor:
        """Both terms on the batch and the exemplars that join it."""
        import torch
        from torch.nn import functional as F

        images, labels, features = with_exemplars(step)
        logits = step.model.logits(features)
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        if len(exemplars(step.store)):
            losses = losses * compensation(logits, labels, step.phase.task.first)
        noticed = int(step.store.get(NOTICED, -1)) == step.phase.task.index
        if not noticed or not old_tasks(step) or not self.relation:
            return losses.mean()
        soft = torch.cat([old_logits(step, images).sigmoid(), targets[:, step.phase.task.first :]], 1)
        related = F.binary_cross_entropy_with_logits(logits, soft)
        return (1 - self.relation) * losses.mean() + self.relation * related

    # ---- server half -------------------------------------------------------------------------------------------------

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Begin a task, and keep the best model of the last one, or its last."""
        old = self.old_model_of(state)
        begun = super().begin(self.without_choice(state), phase, backbone)
        return {**begun, TEACHER: old if self.relation else {}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the model with all head rows, and for training the old model."""
        sent = super().broadcast(state, phase)
        if phase.kind == TRAIN:
            return Broadcast(sent.arrays, {**sent.references, **teacher_references(state)})
        return Broadcast({**sent.arrays, **Modules.of(state).head_rows(*self.head_tasks(phase))}, sent.references)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of federated averaging, with clients of one weight unless they count by their examples."""
        return super().sums(phase, broadcast, of_one_weight(updates) if self.weights == "equal" else updates)
