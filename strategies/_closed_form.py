"""What methods have in common that solve a head of sums of features: one report a task, and sums that only add."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State
from fcil.feature_sums import FeatureSums
from fcil.method import REPORT, Backbone, Broadcast, ClientUpdate, Kind, Local, Method, Pass, Phase, Task
from fcil.model import head

__all__ = ["ClosedForm", "plus"]


def plus(state: State, sums: Arrays) -> dict[str, np.ndarray]:
    """The state's sums with those of this phase added."""
    return {**state["sums"], **{name: state["sums"][name] + a for name, a in sums.items()}}


@dataclass(frozen=True, kw_only=True)
class ClosedForm(Method):
    """Nothing trains: the backbone is frozen, and each task is one pass over its data."""

    def statistic(self, phase: Phase) -> FeatureSums:
        """The sums of a task."""
        raise NotImplementedError(f"{type(self).__name__}.statistic")

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
        return {**state, "rows": rows, "sums": {**fresh, **state.get("sums", {})}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Nothing but the shape of the features."""
        return Broadcast(state["rows"])

    @property
    def additive(self) -> bool:
        """All that is reported is sums."""
        return True

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Over the clients."""
        return self.statistic(phase).total(updates)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Added to those of earlier tasks."""
        return {**state, "sums": plus(state, sums)}
