"""The base of methods that solve a head from sums of features: one report a task, and sums that only add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fcil.arrays import Arrays, State
from fcil.method import (
    REPORT,
    Backbone,
    Broadcast,
    ClientUpdate,
    GramLayout,
    Kind,
    Local,
    Method,
    Pass,
    Phase,
    Task,
    gram_layouts,
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
    """The base of closed-form classifiers: nothing trains, and each task is one pass over its data."""

    refused: ClassVar[Mapping[str, str]] = {"adapter": "a classifier in closed form trains nothing; leave it out"}

    def statistic(self, phase: Phase) -> FeatureSums:
        """Name the statistic that a client sums over a task's samples."""
        raise NotImplementedError(f"{type(self).__name__}.statistic")

    @property
    def additive(self) -> bool:
        """Sums of features add over groups of clients."""
        return True

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """One report per task, whatever the protocol's rounds."""
        return (REPORT,)

    def local(self, phase: Phase) -> Local:
        """Sum the statistic over the task's samples."""
        return Local(passes=(Pass((self.statistic(phase),)),))

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Add zero sums for the new classes, and a head without rows, which tells clients how long features are."""
        rows = {head.weight(phase.task.index): np.zeros((0, backbone.width), np.float32)}
        fresh = self.statistic(phase).zeros(backbone.width)
        return {**state, ROWS: rows, SUMS: {**fresh, **state.get(SUMS, {})}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send a head without rows: nothing but the length of the features."""
        return Broadcast(state[ROWS])

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Add the clients' sums, in float64."""
        return self.statistic(phase).total(updates)

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramLayout]:
        """The statistic's sums have a Gram as its upper half, also where clients send a factor of it."""
        width = broadcast.arrays[head.weight(phase.task.index)].shape[1]
        return {**super().gram_sums(phase, broadcast), **gram_layouts(self.statistic(phase).total_shapes(width))}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Add the task's sums to those of the tasks before."""
        return {**state, SUMS: {**state[SUMS], **{name: state[SUMS][name] + a for name, a in sums.items()}}}
