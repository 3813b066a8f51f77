"""Federated averaging of whatever trains: the base of the methods that train modules inside the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State, total, weighted_total
from fcil.errors import MergeError
from fcil.method import head
from fcil.method.base import Method
from fcil.method.local import Adapter, Local, Pass
from fcil.method.phases import REPORT, TRAIN, Backbone, Broadcast, ClientUpdate, Kind, Phase, Task
from fcil.method.server_optimizer import MOMENTS, ServerOptimizer
from fcil.method.state import Modules

__all__ = ["EXAMPLES", "Averaging", "begin_task"]

EXAMPLES = "examples"
"""Name of sum_i n_i, the examples of all clients together, among the sums of `Averaging.sums`."""


def begin_task(
    state: State, phase: Phase, backbone: Backbone, adapter: Adapter | None, keeps_modules: bool, starts_fresh: bool
) -> State:
    """The state at a task's start: head rows for the new classes, and a new module where the task needs one."""
    modules = Modules.of(state)
    rows = head.new_rows(phase.task, backbone.width, phase.generator("head"), backbone.head_start)
    first, module = not modules.head, modules.module
    if adapter and (first or starts_fresh):
        module = adapter.initial(backbone, phase.generator)
    state = modules.begun(phase.task, module, rows, keep=keeps_modules and not first)
    if starts_fresh and not first:  # moments of the last task's module say nothing of the new one
        state = {group: arrays for group, arrays in state.items() if group != MOMENTS}
    return state


@dataclass(frozen=True, kw_only=True)
class Averaging(Method):
    """Train the adapter's arrays and the current head rows; the server takes their mean, weighted by examples.

    McMahan et al., AISTATS 2017, arXiv 1602.05629, for any adapter; without one it is linear probing. The state has the
    groups of `fcil.method.state.Modules`. A subclass says its `adapter`, and overrides what differs.
    """

    @property
    def additive(self) -> bool:
        """A weighted mean needs sums only."""
        return True

    @property
    def server_optimizer(self) -> ServerOptimizer | None:
        """The optimiser by which the server moves towards the clients' mean; None puts the mean in place."""
        return None

    @property
    def is_mean(self) -> bool:
        """Tell whether rounds are merged to a mean: clients that all send the same model make it the next round's.

        False where the server moves beyond or short of what they send, or adds noise; the contract battery goes by it.
        """
        return self.server_optimizer is None

    @property
    def keeps_modules(self) -> bool:
        """Tell whether every task's module is kept when the task ends, to be merged with the others'."""
        return False

    @property
    def starts_fresh(self) -> bool:
        """Tell whether each task begins with a new module on the frozen backbone; else the last task's goes on."""
        return self.keeps_modules

    @property
    def merges(self) -> str:
        """Say what is merged: rounds, and tasks where every task's module is kept."""
        return "rounds, tasks" if self.keeps_modules and self.stream == "federated" else super().merges

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """Glob patterns of the adapter's arrays that train in this round."""
        return self.adapter.trains if self.adapter else ()

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The tasks whose head rows are sent and train; the current one, so that older rows keep their bits."""
        return (phase.task.index,)

    def task_report(self, task: Task) -> tuple[Pass, ...]:
        """Name what clients report of the merged model after a task's rounds; `merge_report` is given the sums.

        Nothing, and no phase for it, unless overridden.
        """
        return ()

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Train the adapter's arrays and the head rows; in a report sum what `task_report` names."""
        if phase.kind == REPORT:
            return Local(passes=self.task_report(phase.task))
        return Local(trains=(*self.trains(phase), *(head.block(task) for task in self.head_tasks(phase))))

    # ---- server half -------------------------------------------------------------------------------------------------

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report after them where there is something to report."""
        return (TRAIN,) * rounds + ((REPORT,) if self.task_report(task) else ())

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Add a module for the first task, or for each where tasks start fresh, and the new classes' head rows."""
        return begin_task(state, phase, backbone, self.adapter, self.keeps_modules, self.starts_fresh)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The current module; for training the head rows that train too."""
        modules = Modules.of(state)
        rows = modules.head_rows(*self.head_tasks(phase)) if phase.kind == "train" else {}
        return Broadcast({**modules.module, **rows})

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """sum_i n_i (theta_i - start) for every array that trained, or a report's statistics; and sum_i n_i."""
        counts = [u.num_examples for u in updates]
        if phase.kind == REPORT:
            sums = total([u.statistics for u in updates])
        else:
            sums = weighted_total([u.arrays for u in updates], counts, broadcast.arrays)
        return {**sums, EXAMPLES: np.array(sum(counts), np.float64)}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Start + sum_i n_i (theta_i - start) / sum_i n_i, or the server optimiser's step along that mean change.

        After a report what `merge_report` makes of it.

        Raises:
            MergeError: nobody has any examples.
        """
        if not sums[EXAMPLES] > 0:
            raise MergeError(f"a mean weighted by examples needs some; the clients have {sums[EXAMPLES]:g}")
        if phase.kind == REPORT:
            return self.merge_report(state, phase, sums)
        modules = Modules.of(state)
        start = {n: a for group in (modules.module, modules.head) for n, a in group.items() if n in sums}
        changes = {name: sums[name] / sums[EXAMPLES] for name in start}
        if self.server_optimizer:
            changes, state = self.server_optimizer.step(changes, state)
        moved = {name: (a + changes[name]).astype(np.float32) for name, a in start.items()}
        return Modules.of(state).replaced(moved)

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state after a task's report; belongs to `task_report`.

        Args:
            sums: the statistics summed over the clients, float64, and EXAMPLES.
        """
        raise NotImplementedError(f"{type(self).__name__}.merge_report, beside .task_report")

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The module as it is, and all head rows."""
        modules = Modules.of(state)
        return {**modules.module, **modules.head}
