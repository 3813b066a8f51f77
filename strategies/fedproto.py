"""FedProto: pull features towards the mean features of their class over all clients, and predict by the nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, added, as_float32
from fcil.merging.ridge import biases
from fcil.method import Averaging, Broadcast, ClientUpdate, Local, Pass, Phase, Step, head
from fcil.options import Option
from fcil.statistics.features import FeatureSums, class_sums, counts

from ._adapters import AdapterSettings
from ._server import ServerSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FedProto"]

PROTOTYPES = "prototypes"
"""The state's group, `<t>` -> (classes, width + 1): prototypes, then 1, or 0 for a class that has none. Also the name
of the current task's among the references."""


@dataclass(frozen=True, kw_only=True)
class FedProto(ServerSettings, AdapterSettings, Averaging):
    """Pull features to their class's prototype, and predict by the nearest.

    Tan et al., "FedProto: federated prototype learning across heterogeneous clients", AAAI 2022, arXiv 2105.00243. In
    every round clients send the mean feature of each class under the model that they have trained; the server pools

        p_c  = sum_k n_kc h_kc / sum_k n_kc                       over the clients k that have the class
        loss = cross-entropy + strength * mean_x |h(x) - p_y|^2 / d     d: the length of a feature

    and predicts argmin_c |h(x) - p_c|. Samples of classes that have no prototype yet count as 0 in the term: in a
    task's first round there are none. Sent beside federated averaging: up d + 1 floats a class of the task, down d + 1.
    The server keeps the prototypes of all classes, those of earlier tasks as their last round left them; clients keep
    nothing. Differs from the paper, in which only prototypes travel and every client has a model of its own: here one
    model is evaluated, so what trains is averaged too. Public code takes the plain mean over clients (`weighting`), of
    features in train mode along the last epoch; a re-implementation on ViTs pulls means of batches instead of samples.
    Literal transcription: `tests/reference_gaussians.py`, `prototypes` and `prototype_loss`.
    """

    strength: Annotated[float, Option("weight of the pull to prototypes; lambda in the paper", low=0)] = 1.0
    weighting: Annotated[
        Literal["examples", "clients"], Option("a prototype is the mean over samples (paper), or over clients' means")
    ] = "examples"
    predict: Annotated[Literal["prototypes", "head"], Option("by the nearest prototype, or by the linear head")] = (
        "prototypes"
    )

    # ---- client half -------------------------------------------------------------------------------------------------

    def statistic(self, phase: Phase) -> FeatureSums:
        """Sums and numbers of features of the task's classes, sent as float32."""
        return FeatureSums(phase.task, gram=False, wire="float32")

    def local(self, phase: Phase) -> Local:
        """Train, then sum the features of each class under the trained model."""
        return replace(super().local(phase), passes=(Pass((self.statistic(phase),)),))

    def loss(self, step: Step) -> Tensor:
        """Cross-entropy over the current task's classes, and the mean square distance to the prototypes."""
        loss = step.cross_entropy()
        if not self.strength or PROTOTYPES not in step.references:
            return loss
        prototypes = step.constant(PROTOTYPES)[step.labels - step.phase.task.first]
        away = (step.features - prototypes[:, :-1]).square().mean(1)
        return loss + self.strength * (prototypes[:, -1] * away).mean()

    # ---- server half -------------------------------------------------------------------------------------------------

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Federated averaging's, and the current task's prototypes once there are any."""
        sent, task = super().broadcast(state, phase), str(phase.task.index)
        if task not in state.get(PROTOTYPES, {}):
            return sent
        return replace(sent, references={**sent.references, PROTOTYPES: state[PROTOTYPES][task]})

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why no samples have these sums."""
        return self.statistic(phase).objection(update.statistics, update.num_examples)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Federated averaging's sums; sums of features and numbers by class, or of clients' means and of clients."""
        q, n = class_sums(phase.task.index), counts(phase.task.index)
        shares = [(u.statistics[q].astype(np.float64), u.statistics[n].astype(np.float64)) for u in updates]
        if self.weighting == "clients":
            shares = [(total / np.maximum(count, 1)[:, None], np.sign(count)) for total, count in shares]
        sums = {q: added(total for total, _ in shares), n: added(count for _, count in shares)}
        return {**super().sums(phase, broadcast, updates), **sums}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Federated averaging, and the prototypes; that of a class which nobody reported stays as it was."""
        total, count, name = sums[class_sums(phase.task.index)], sums[counts(phase.task.index)], str(phase.task.index)
        classes, width = total.shape
        before = state.get(PROTOTYPES, {}).get(name, np.zeros((classes, width + 1)))
        means = np.concatenate([total / np.maximum(count, 1)[:, None], np.ones((classes, 1))], 1)
        new = np.where(count[:, None] > 0, means, before).astype(np.float32)
        state = super().merge_sums(state, phase, sums)
        return {**state, PROTOTYPES: {**state.get(PROTOTYPES, {}), name: new}}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The module, and by prototypes rows p_c with biases -|p_c|^2 / 2: -|h - p_c|^2 / 2 but for what all share."""
        deployed = dict(super().deploy(state, phase))
        if self.predict == "head":
            return deployed
        for task in range(phase.task.index + 1):
            means, numbers = (state[PROTOTYPES][str(task)][:, part] for part in (slice(-1), -1))
            rows = {head.weight(task): means, head.bias(task): biases(numbers, -np.square(means).sum(1) / 2)}
            deployed |= as_float32(rows)
        return deployed
