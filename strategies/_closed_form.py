"""What methods have in common that solve a head of sums of features: one report a task, and sums that only add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State
from fcil.method import (
    REPORT,
    Backbone,
    Broadcast,
    ClientUpdate,
    GramForm,
    Kind,
    Local,
    Method,
    Pass,
    Phase,
    Task,
    gram_forms,
    head,
)
from fcil.statistics.features import FeatureSums

__all__ = ["ROWS", "SUMS", "ClosedForm", "feature_width"]

ROWS, SUMS = "rows", "sums"
"""The state's groups: a head block without rows, which tells the length of features, and the sums so far."""


def feature_width(state: State) -> int:
    """Length of the backbone's features."""
    return int(next(iter(state[ROWS].values())).shape[1])


@dataclass(frozen=True, kw_only=True)
class ClosedForm(Method):
    """Nothing trains: the backbone is frozen, and each task is one pass over its data."""

    def statistic(self, phase: Phase) -> FeatureSums:
        """The sums of a task."""
        raise NotImplementedError(f"{type(self).__name__}.statistic")

    @property
    def additive(self) -> bool:
        """Sums add."""
        return True

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """One report, whatever the protocol's rounds."""
        return (REPORT,)

    def local(self, phase: Phase) -> Local:
        """Sum over the task's samples."""
        return Local(passes=(Pass((self.statistic(phase),)),))

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Zero sums for the new classes, and a head without rows, which says how long features are."""
        rows = {head.weight(phase.task.index): np.zeros((0, backbone.width), np.float32)}
        fresh = self.statistic(phase).zeros(backbone.width)
        return {**state, ROWS: rows, SUMS: {**fresh, **state.get(SUMS, {})}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Nothing but the shape of the features."""
        return Broadcast(state[ROWS])

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The statistic's sums over the clients, in float64."""
        return self.statistic(phase).total(updates)

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramForm]:
        """The statistic's sums have a Gram as its upper half, also where clients send a factor of it."""
        width = broadcast.arrays[head.weight(phase.task.index)].shape[1]
        return {**super().gram_sums(phase, broadcast), **gram_forms(self.statistic(phase).total_shapes(width))}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The sums over all tasks so far."""
        return {**state, SUMS: {**state[SUMS], **{name: state[SUMS][name] + a for name, a in sums.items()}}}
