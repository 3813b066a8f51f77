"""The base of methods that merge weight updates: over a round's clients, over tasks, or both.

A published merge says in `combine` how experts become one. What an expert is depends on where it is used:

    round   client i's change against the one that the round began with, for LoRA B_i A_i - B A, exactly, in factors of
            rank 2 r; the merged change is added to it, and the module that comes nearest goes on
    task    task t's change against that of the module's start, which is zero for LoRA; what is merged is added to the
            start and deployed as it is, at any rank, and trains no further
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32, total, weighted_mean
from fcil.errors import ConfigError
from fcil.merging.expert import Expert, any_moved, check_compatible, check_moved
from fcil.merging.lowrank import Change, LowRank, dense, stacked
from fcil.method import (
    REPORT,
    TRAIN,
    Averaging,
    Backbone,
    Broadcast,
    ClientUpdate,
    Kind,
    Local,
    Modules,
    Pass,
    Phase,
    Statistic,
    Task,
    of_task,
    split_tasks,
)
from fcil.method.averaging import FIXED, START, fixed_arrays
from fcil.method.state import TRAINED, without
from fcil.model.weight_adapter import PARAMETER, Draw, WeightAdapter, differences
from fcil.options import Option

from ._adapters import AdapterSettings

__all__ = ["Draw", "MergeMethod", "Scale"]

KEPT = "kept"
"""The state's group of the statistics that tasks reported, task<t>/<name>."""
Scale = Annotated[float, Option("factor of the merged change; lambda or alpha in the papers")]


def _added(start: LowRank, change: Change) -> Change:
    return stacked([start, change]) if isinstance(change, LowRank) else dense(start) + change


def _mean_of_parameters(modules: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The mean over tasks of the changes of parameters that are no linear layer's weight."""
    names = [name for name in modules[0] if name.startswith(PARAMETER)]
    return weighted_mean([{name: module[name] for name in names} for module in modules], [1.0] * len(modules))


@dataclass(frozen=True, kw_only=True)
class MergeMethod(AdapterSettings, Averaging):
    """The base of the methods that merge changes of weights; rounds that it does not merge are averaged."""

    entrywise: ClassVar[bool] = False
    """Says that `combine` goes entry by entry, so that it can merge what is no matrix too; others average that."""

    at: Annotated[
        Literal["task", "round", "both"], Option("what is merged: tasks' modules, a round's clients, or both")
    ] = "task"
    start: Annotated[
        Literal["fresh", "last"], Option("a task's module begins anew, or where the last task's ended")
    ] = "fresh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapter is None:
            raise ConfigError(
                f"method.adapter = {self.adapter_text!r}: the head's rows alone change no weights to merge; "
                "name another adapter, or method.name = fedavg"
            )

    @property
    def weight_adapter(self) -> WeightAdapter:
        """The adapter, of which there is one: the head alone is refused."""
        assert self.adapter is not None  # refused in __post_init__
        return self.adapter

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """The merged change of every layer, one at a time, so that no more than one dense layer is held.

        `experts` are checked: the same layers and shapes, finite, none of weight zero.
        """
        raise NotImplementedError(f"{type(self).__name__}.combine")

    def combine_round(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """The merged change of a round's clients, as `combine`; of LoRA pairs only `rank` components go on."""
        return self.combine(experts, draw)

    def reports(self, kind: Kind) -> tuple[Statistic, ...]:
        """Statistics that `combine` needs of every expert beside its change: sums over a client's data, or a task's."""
        return ()

    def passes(self, kind: Kind, task: Task) -> tuple[Pass, ...]:
        """The passes over a client's data in which `reports` are summed; overridden where they need gradients."""
        wanted = self.reports(kind)
        return (Pass(wanted),) if wanted else ()

    @property
    def needs_only_changes(self) -> bool:
        """Tell whether `combine` needs nothing beside the changes, nor what it deploys a forward pass of its own.

        Such a merge can be hosted in another basis, in which statistics of layer inputs mean nothing.
        """
        return not any(self.passes(kind, Task(0, 0, 1)) for kind in (TRAIN, REPORT))

    @property
    def merges_changes_of_rounds(self) -> bool:
        """Tell whether rounds are merged as changes, which an adapter may need a dense one beside it to hold."""
        return self.at != "task"

    @property
    def merges(self) -> str:
        """Say what can be merged: tasks, rounds, or both, by the setting `at`."""
        return "tasks, or rounds"

    @property
    def keeps_modules(self) -> bool:
        """Keep every task's module where tasks are merged."""
        return self.at != "round"

    @property
    def starts_fresh(self) -> bool:
        """Begin every task's module at the start where `start` is fresh."""
        return self.keeps_modules and self.start == "fresh"

    @property
    def additive(self) -> bool:
        """Declare sums where rounds are averaged: no other merge can be summed in groups."""
        return self.at == "task"

    @property
    def is_mean(self) -> bool:
        """Tell whether rounds are averaged: what a merge makes of equal clients is in general not their model."""
        return self.at == "task"

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report under the merged model where merging tasks needs one."""
        report = self.at != "round" and self.passes(REPORT, task)
        return (TRAIN,) * rounds + ((REPORT,) if report else ())

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Begin as in federated averaging, with room for what merged rounds leave beside an adapter."""
        state = super().begin(state, phase, backbone)
        if not self.merges_changes_of_rounds or not (self.starts_fresh or phase.task.index == 0):
            return state
        modules = Modules.of(state)
        return modules.with_module(self.weight_adapter.with_room(modules.module))

    def local(self, phase: Phase) -> Local:
        """Train as in federated averaging; report what `combine` needs in the phases that it merges."""
        if phase.kind == "report":
            return Local(passes=self.passes(REPORT, phase.task), frozen=fixed_arrays)
        wanted = self.passes(TRAIN, phase.task) if self.at != "task" else ()
        return replace(super().local(phase), passes=wanted)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Add the clients' statistics in a report; in a round sum what averaging needs."""
        if phase.kind == "report":
            return total([u.statistics for u in updates])
        return super().sums(phase, broadcast, updates)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Keep the task's statistics after a report; average after a round."""
        if phase.kind == "report":
            reports = {of_task(phase.task.index, name): a for name, a in as_float32(sums).items()}
            return {**state, KEPT: {**state.get(KEPT, {}), **reports}}
        return super().merge_sums(state, phase, sums)

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """Average; where rounds are merged, put a module with the merged changes in the place of the averaged one."""
        averaged = super().merge(state, phase, updates)
        if phase.kind == "report" or self.at == "task":
            return averaged
        start = self._changes(Modules.of(state).module)
        experts = self._clients(Modules.of(state), start, updates)
        if phase.task.size == 1 and not any_moved(experts):
            return without(averaged, TRAINED)  # the loss of a single class is constant
        check_moved(experts)
        merged = ((layer, _added(start[layer], c)) for layer, c in self.combine_round(experts, self._draw(phase)))
        after = Modules.of(averaged)
        module = self.weight_adapter.module_with(after.module, state.get(START, {}), merged, phase.generator)
        return without(after.with_module(module), TRAINED)  # the merged weights are this module's, whatever is next

    def _changes(self, arrays: Arrays) -> Mapping[str, LowRank]:
        return self.weight_adapter.changes(arrays, self.entrywise)

    def _clients(self, modules: Modules, start: Mapping[str, LowRank], updates: Sequence[ClientUpdate]) -> list[Expert]:
        """The changes of the clients that have samples, against the pairs that the round began with."""
        experts = []
        for update in (u for u in updates if u.num_examples):
            trained = self._changes({**modules.module, **update.arrays})
            experts.append(Expert(differences(trained, start), update.num_examples, update.statistics, update.client))
        check_compatible(experts)
        return experts

    def with_head_rows(self, state: State, phase: Phase) -> Broadcast:
        """The broadcast, for a report too with the head rows of which the loss is made."""
        sent, rows = super().broadcast(state, phase), Modules.of(state).head_rows(phase.task.index)
        return replace(sent, arrays={**sent.arrays, **rows})

    def _draw(self, phase: Phase) -> Draw:
        return lambda *purpose: phase.generator(type(self).__name__, *purpose)

    def task_experts(self, state: State) -> list[Expert]:
        """The tasks' changes from the start, as far as they can be merged; none before there is a second task."""
        modules = Modules.trained(state)
        if self.at == "round" or not modules.past:
            return []
        reports = split_tasks(state.get(KEPT, {}))
        ready = modules.all_tasks[: len(reports) or None]  # between rounds the current task has not reported yet
        changes = [self._changes(module) for module in ready]
        if START in state:
            start = self._changes(state[START])
            changes = [differences(of_task, start) for of_task in changes]
        return [Expert(of_task, 1.0, reports[t] if reports else {}, t) for t, of_task in enumerate(changes)]

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The tasks' modules merged; one alone is deployed as it is."""
        experts = self.task_experts(state)
        if not experts:
            return super().deploy(state, phase)
        check_compatible(experts)
        modules = Modules.trained(state)
        arrays = modules.all_tasks[: len(experts)]
        others = {**modules.head, **state.get(FIXED, {})}
        if len(experts) == 1:
            return {**arrays[0], **others}
        start = self._changes(state[START]) if START in state else {}
        merged: dict[str, np.ndarray] = {} if self.entrywise else _mean_of_parameters(arrays)
        for layer, change in self.combine(experts, self._draw(phase)):
            whole = _added(start[layer], change) if start else change
            merged |= self.weight_adapter.deployed(layer, whole, arrays[0])
        return {**merged, **others}
