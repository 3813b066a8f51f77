"""iCaRL, federated: exemplars on the clients, distillation, and the nearest mean of exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.ridge import biases, class_means
from fcil.method import (
    REPORT,
    TRAIN,
    Backbone,
    Broadcast,
    Client,
    ClientUpdate,
    Computed,
    Kind,
    Local,
    Modules,
    NoSum,
    Phase,
    Shapes,
    Step,
    Task,
    head,
)
from fcil.method.averaging import fixed_arrays
from fcil.options import Option

from ._adapters import AdapterAveraging, of_one_weight
from ._exemplars import choose, exemplars, normalised_features, with_exemplars
from ._teacher import TEACHER, distillation, old_logits, old_tasks, teacher_of, teacher_references

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ICaRL"]

MEANS, SUMS, COUNTS = "exemplars", "exemplar_sums", "exemplar_counts"
"""The state's group, and its arrays: (classes, width) sums of the exemplars' normalised features, and their number."""


@dataclass(frozen=True, kw_only=True)
class ICaRL(AdapterAveraging):
    """Average what trains on new classes and exemplars, under distillation.

    A client trains on its samples of the task together with its exemplars of earlier ones. With g_c the sigmoid of the
    logit of class c, and q_c that of the merged model at the last task's end, for every image x of label y

        sigmoid  - sum_c [t_c log g_c + (1 - t_c) log(1 - g_c)],  t_c = q_c for an old class, else 1(y = c)
        softmax  - log p_y over all classes seen, and LwF's distillation of the old ones at temperature T

    After the rounds, in a report under the merged model, each client chooses exemplars of the new classes by herding,
    and cuts those of the old to as many: size / classes that it has seen. An image's class is that of the nearest mean
    of exemplars, or that of the linear head. Rebuffi et al., "iCaRL: incremental classifier and representation
    learning", CVPR 2017, arXiv 1611.07725, Algorithms 1 to 5: sigmoid and nearest mean. Federated as in the code of
    LANDER (Tran et al., CVPR 2024), whose objective is softmax and whose head is linear in spite of the name.

    Sent: as in federated averaging, with the head rows of all classes seen; the teacher, one model down once a task;
    for the nearest mean one sum of normalised features and one count per class up after each task. Kept by a client,
    and never sent: `size` of its own samples, un-augmented (as indices, 8 bytes each, which stand for as many images:
    30 MB for 200 of 224 x 224); by the server the teacher and the means.

    Unlike the paper: exemplars and budgets are each client's own; a class's mean is that of all clients' exemplars, and
    where no client that was asked has any, the one that was last known (a report asks who has samples of the task). In
    place of shuffling the exemplars among the task's samples each of them joins a batch with the chance that a sample
    has to be in it. Exemplars are chosen under the merged model. LoRA by default. LANDER's code takes the plain mean of
    clients (`weights` = "equal"), here it is weighted by examples. Literal transcription:
    `tests/reference_baselines.py`.
    """

    size: Annotated[
        int,
        Option(
            "exemplars that a client keeps, of all its classes together, K; none where it has more than K classes",
            low=0,
        ),
    ] = 200
    objective: Annotated[
        Literal["sigmoid", "softmax"],
        Option("a sigmoid for each class, as the paper, or cross-entropy, as LANDER's code"),
    ] = "sigmoid"
    temperature: Annotated[float, Option("T of the distillation with softmax", above=0)] = 2.0
    classifier: Annotated[
        Literal["nearest_mean", "linear"], Option("scores by the nearest mean of exemplars, or by the linear head")
    ] = "nearest_mean"
    weights: Annotated[
        Literal["examples", "equal"], Option("clients count by their examples, or alike, as in LANDER's code")
    ] = "examples"

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The rows of all classes seen."""
        return tuple(range(phase.task.index + 1))

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report in which exemplars are chosen."""
        return (TRAIN,) * rounds + (REPORT,)

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Train the adapter and all head rows; in the report sum the features of exemplars."""
        if phase.kind == TRAIN:
            return super().local(phase)
        classes, width = phase.task.seen, head.weight(phase.task.index)

        def sums_and_counts(sent: Shapes) -> Shapes:
            return {SUMS: NoSum((classes, sent[width][1]), "constant"), COUNTS: NoSum((classes,), "constant")}

        sums = Computed("features of exemplars", sums_and_counts)
        return Local(frozen=fixed_arrays, computed=(sums,) if self.classifier == "nearest_mean" else ())

    def loss(self, step: Step) -> Tensor:
        """The paper's objective, or LANDER's, on the batch and the exemplars that join it."""
        from torch.nn import functional as F

        images, labels, features = with_exemplars(step)
        logits, old = step.model.logits(features), old_logits(step, images) if old_tasks(step) else None
        if self.objective == "softmax":
            loss = F.cross_entropy(logits, labels)
            return loss if old is None else loss + distillation(logits[:, : old.shape[1]], old, self.temperature)
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        if old is not None:
            targets[:, : old.shape[1]] = old.sigmoid()
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(labels)

    def client_end(self, client: Client) -> None:
        """In the report choose exemplars, and sum the normalised features of all of them by class."""
        if client.phase.kind == TRAIN:
            return
        choose(client, self.size)
        if self.classifier == "linear":
            return
        samples, width = exemplars(client.store), client.broadcast.arrays[head.weight(client.phase.task.index)].shape[1]
        sums, counts = np.zeros((client.phase.task.seen, width)), np.zeros(client.phase.task.seen)
        if len(samples):
            labels = client.labels(samples).cpu().numpy()
            np.add.at(sums, labels, normalised_features(client, samples))
            np.add.at(counts, labels, 1)
        client.statistics.update({SUMS: sums.astype(np.float32), COUNTS: counts.astype(np.float32)})

    # ---- server half -------------------------------------------------------------------------------------------------

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Begin a task, and keep the model of the last one as the teacher."""
        return {**super().begin(state, phase, backbone), TEACHER: teacher_of(state)}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the model, and for training the teacher; for the report a head block without rows, for its width."""
        sent = super().broadcast(state, phase)
        if phase.kind == TRAIN:
            return Broadcast(sent.arrays, {**sent.references, **teacher_references(state)})
        rows = Modules.of(state).head_rows(phase.task.index)
        return Broadcast({**sent.arrays, **{name: a[:0] for name, a in rows.items()}}, sent.references)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of federated averaging, in rounds with clients of one weight where that is asked."""
        if self.weights == "equal" and phase.kind == TRAIN:
            updates = of_one_weight(updates)
        return super().sums(phase, broadcast, updates)

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Take the new sums of each class of which somebody has exemplars, and the last known ones of the others."""
        if self.classifier == "linear":
            return state
        new, old = {name: sums[name] for name in (SUMS, COUNTS)}, state.get(MEANS, {})
        stale = np.flatnonzero(new[COUNTS][: len(old.get(COUNTS, ()))] == 0)
        for name, a in new.items() if len(stale) else ():
            a[stale] = old[name][stale]
        return {**state, MEANS: new}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The model as it was trained; after the report with the means in the place of the head.

        For means mu of norm 1, |phi / |phi| - mu| is least where mu phi is greatest: they are a linear head.
        """
        deployed = super().deploy(state, phase)
        if phase.kind == TRAIN or self.classifier == "linear":
            return deployed
        means, counts = class_means(state[MEANS][SUMS], state[MEANS][COUNTS]), state[MEANS][COUNTS]
        means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        tasks = range(phase.task.index + 1)
        cuts = np.cumsum([len(deployed[head.bias(task)]) for task in tasks])[:-1]
        rows: dict[str, np.ndarray] = {}
        for task, weight, bias in zip(tasks, np.split(means, cuts), np.split(biases(counts), cuts), strict=True):
            rows |= {head.weight(task): weight.astype(np.float32), head.bias(task): bias.astype(np.float32)}
        return {**deployed, **rows}
