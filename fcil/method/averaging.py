"""Federated averaging of whatever trains: the base of the methods that train modules inside the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State, shapes, total, weighted_total
from fcil.errors import MergeError
from fcil.method import head
from fcil.method.base import Method
from fcil.method.code import check_merge
from fcil.method.local import Adapter, Local, Pass, Statistic
from fcil.method.phases import REPORT, TRAIN, Backbone, Broadcast, ClientUpdate, Kind, Phase, Task
from fcil.method.server_optimizer import MOMENTS, ServerOptimizer
from fcil.method.state import MODULE, TRAINED, Modules, without

__all__ = ["EXAMPLES", "FIXED", "START", "Averaging", "begin_task", "fixed_arrays", "fixed_references"]

START, FIXED = "start", "fixed"
"""The state's groups of the adapter's arrays at their start, where that changes something, and of those that are fixed.

A client finds the fixed ones among the references, `fixed/<name>`."""
EXAMPLES = "examples"
"""Name of sum_i n_i, the examples of all clients together, among the sums of `Averaging.sums`."""


def begin_task(
    state: State, phase: Phase, backbone: Backbone, adapter: Adapter | None, keeps_modules: bool, starts_fresh: bool
) -> State:
    """The state at a task's start: head rows for the new classes, and a new module where the task needs one."""
    modules = Modules.trained(state)
    rows = head.new_rows(phase.task, backbone.width, phase.generator("head"), backbone.head_start)
    first, module = not modules.head, state.get(MODULE, {})
    further: dict[str, Arrays] = {}
    if adapter and first:
        module, fixed = adapter.initial_and_fixed(backbone, phase.generator)
        groups = {START: {} if adapter.starts_at_zero else module, FIXED: fixed}
        further = {group: arrays for group, arrays in groups.items() if arrays}
    elif adapter and starts_fresh:
        module = state[START] if START in state else adapter.initial(backbone, phase.generator)
    state = {**modules.begun(phase.task, module, rows, keep=keeps_modules and not first), **further}
    # moments of the last task's module say nothing of the new one
    return without(without(state, MOMENTS) if starts_fresh and not first else state, TRAINED)


def fixed_references(state: State) -> dict[str, np.ndarray]:
    """The adapter's fixed arrays as references of a broadcast."""
    return {f"{FIXED}/{name}": a for name, a in state.get(FIXED, {}).items()}


def fixed_arrays(references: Arrays) -> dict[str, np.ndarray]:
    """The adapter's fixed arrays among a broadcast's references, under their names in the model."""
    return {name.removeprefix(f"{FIXED}/"): a for name, a in references.items() if name.startswith(f"{FIXED}/")}


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
            return Local(passes=self.task_report(phase.task), frozen=fixed_arrays)
        rows = (head.block(task) for task in self.head_tasks(phase))
        return Local((*self.trains(phase), *rows), training=self._training_statistics, frozen=fixed_arrays)

    @property
    def _training_statistics(self) -> tuple[Statistic, ...]:
        return self.adapter.training_statistics if self.adapter else ()

    # ---- server half -------------------------------------------------------------------------------------------------

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report after them where there is something to report."""
        return (TRAIN,) * rounds + ((REPORT,) if self.task_report(task) else ())

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where the adapter's schedule does not fit the rounds, or a merge would leave it out."""
        schedule = (
            self.adapter is not None and getattr(type(self.adapter), "next_round", None) is not Adapter.next_round
        )
        beside = {f"the schedule of {type(self.adapter).__name__}": schedule}
        beside["the server's optimiser"] = self.server_optimizer is not None
        check_merge(type(self), Averaging, [part for part, is_there in beside.items() if is_there])
        tasks = {phase.task.index for phase in phases}
        rounds = sum(phase.kind == TRAIN for phase in phases)
        if self.adapter and phases:
            self.adapter.check_rounds(rounds // len(tasks) if self.starts_fresh else rounds)

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Add a module for the first task, or for each where tasks start fresh, and the new classes' head rows."""
        state = begin_task(state, phase, backbone, self.adapter, self.keeps_modules, self.starts_fresh)
        begun = self.starts_fresh or not self._tasks_before(phase)
        return self._next_round(state, phase, {}, done=0) if begun else state

    def _tasks_before(self, phase: Phase) -> int:
        """Number of tasks that were trained before this one; all classes at once are the first, whatever its index."""
        return 0 if self.stream == "at_once" else phase.task.index

    def _next_round(self, state: State, phase: Phase, sums: Arrays, done: int) -> State:
        """Let the adapter's schedule act after `done` rounds of the task, unless they were the module's last.

        What is deployed or reported of before the next round stays as it was trained: see TRAINED.
        """
        state = without(state, TRAINED)
        if self.adapter is None:
            return state
        rounds = in_task = phase.round + phase.phases_left - len(self.phases(phase.task, 1)) + 1
        if not self.starts_fresh:
            before = self._tasks_before(phase)
            done += before * in_task
            rounds = (before + 1 + phase.tasks_left) * in_task
        if done >= rounds:
            return state
        module = Modules.of(state).module
        following = self.adapter.next_round(module, sums, done, rounds)
        changed = {name: a for name, a in module.items() if following[name] is not a} if done else {}
        return {**state, MODULE: following, **({TRAINED: changed} if changed else {})}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The current module; for training the head rows that train too."""
        modules = Modules.of(state) if phase.kind == TRAIN else Modules.trained(state)
        rows = modules.head_rows(*self.head_tasks(phase)) if phase.kind == TRAIN else {}
        return Broadcast({**modules.module, **rows}, fixed_references(state))

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """sum_i n_i (theta_i - start) for every array that trained, or a report's statistics; and sum_i n_i."""
        counts = [u.num_examples for u in updates]
        if phase.kind == REPORT:
            sums = total([u.statistics for u in updates])
        else:
            sums = weighted_total([u.arrays for u in updates], counts, broadcast.arrays)
            names = Local(training=self._training_statistics).reported(shapes(broadcast.arrays))
            sums |= total([{name: u.statistics[name] for name in names} for u in updates])
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
        return self._next_round(Modules.of(state).replaced(moved), phase, sums, phase.round)

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state after a task's report; belongs to `task_report`.

        Args:
            sums: the statistics summed over the clients, float64, and EXAMPLES.
        """
        raise NotImplementedError(f"{type(self).__name__}.merge_report, beside .task_report")

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The module as it was trained, and all head rows."""
        modules = Modules.trained(state)
        return {**modules.module, **modules.head, **state.get(FIXED, {})}
