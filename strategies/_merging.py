"""The base of methods that merge weight updates: over a round's clients, over tasks, or both.

A published merge says in `combine` how experts become one. What an expert is depends on where it is used:

    round   client i's pair against the pair that the round began with, B_i A_i - B A, exactly, in factors of rank 2 r;
            the merged change is added to B A, and the nearest pair of rank r goes on
    task    task t's pair against W0; what is merged is deployed as it is, at any rank, and trains no further
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32, total
from fcil.merging.expert import Expert, check_compatible, check_moved
from fcil.merging.lowrank import Change, LowRank, dense, stacked, truncated
from fcil.method import (
    REPORT,
    TRAIN,
    Averaging,
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
from fcil.model.lora import DELTA, A, B, Lora, changes_of
from fcil.options import Option

from ._lora import Rank, revive_dead_components

__all__ = ["Draw", "MergeMethod", "Scale"]

KEPT = "kept"
"""The state's group of the statistics that tasks reported, task<t>/<name>."""
Draw = Callable[..., np.random.Generator]
"""purpose, ... -> the generator for it: masks are drawn per round, expert and layer."""
Scale = Annotated[float, Option("factor of the merged change; lambda or alpha in the papers")]


def _arrays(layer: str, change: Change) -> dict[str, np.ndarray]:
    if isinstance(change, LowRank):
        return {layer + A: change.a.astype(np.float32), layer + B: change.b.astype(np.float32)}
    return {layer + DELTA: change.astype(np.float32)}


def _added(start: LowRank, change: Change) -> Change:
    return stacked([start, change]) if isinstance(change, LowRank) else dense(start) + change


@dataclass(frozen=True, kw_only=True)
class MergeMethod(Averaging):
    """The base of the methods that merge changes of LoRA pairs; rounds that it does not merge are averaged."""

    rank: Rank = 16
    at: Annotated[
        Literal["task", "round", "both"], Option("what is merged: tasks' modules, a round's clients, or both")
    ] = "task"
    start: Annotated[
        Literal["fresh", "last"], Option("a task's module begins anew, or where the last task's ended")
    ] = "fresh"

    @property
    def adapter(self) -> Lora:
        """A pair on qkv, proj, fc1 and fc2 of every block."""
        return Lora(self.rank)

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """The merged change of every layer, one at a time, so that no more than one dense layer is held.

        `experts` are checked: the same layers and shapes, finite, none of weight zero.
        """
        raise NotImplementedError(f"{type(self).__name__}.combine")

    def combine_round(self, experts: Sequence[Expert], draw: Draw) -> Iterable[tuple[str, Change]]:
        """The merged change of a round's clients, as `combine`; of it and the start only `rank` components go on."""
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
    def merges(self) -> str:
        """Say what can be merged: tasks, rounds, or both, by the setting `at`."""
        return "tasks, or rounds"

    @property
    def keeps_modules(self) -> bool:
        """Keep every task's pairs where tasks are merged."""
        return self.at != "round"

    @property
    def starts_fresh(self) -> bool:
        """Begin every task's pairs on W0 alone where `start` is fresh."""
        return self.keeps_modules and self.start == "fresh"

    @property
    def additive(self) -> bool:
        """Declare sums where rounds are averaged: no other merge can be summed in groups."""
        return self.at == "task"

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report under the merged model where merging tasks needs one."""
        report = self.at != "round" and self.passes(REPORT, task)
        return (TRAIN,) * rounds + ((REPORT,) if report else ())

    def local(self, phase: Phase) -> Local:
        """Train as in federated averaging; report what `combine` needs in the phases that it merges."""
        if phase.kind == "report":
            return Local(passes=self.passes(REPORT, phase.task))
        wanted = self.passes(TRAIN, phase.task) if self.at != "task" else ()
        return Local(super().local(phase).trains, passes=wanted)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Add the clients' statistics in a report; in a round sum what averaging needs."""
        if phase.kind == "report":
            return total([u.statistics for u in updates])
        return super().sums(phase, broadcast, updates)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Keep the task's statistics after a report; average after a round."""
        if phase.kind == "report":
            kept = {of_task(phase.task.index, name): a for name, a in as_float32(sums).items()}
            return {**state, KEPT: {**state.get(KEPT, {}), **kept}}
        return super().merge_sums(state, phase, sums)

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """Average; where rounds are merged, put the merged pairs in the place of the averaged ones."""
        averaged = super().merge(state, phase, updates)
        if phase.kind == "report" or self.at == "task":
            return averaged
        start = changes_of(Modules.of(state).module)
        experts = self._clients(Modules.of(state), start, updates)
        module: dict[str, np.ndarray] = {}
        for layer, change in self.combine_round(experts, self._draw(phase)):
            nearest, _ = truncated(_added(start[layer], change), self.rank)
            module |= _arrays(layer, revive_dead_components(nearest, layer, phase))
        return Modules.of(averaged).with_module(module)

    def _clients(self, modules: Modules, start: dict[str, LowRank], updates: Sequence[ClientUpdate]) -> list[Expert]:
        """The changes of the clients that have samples, against the pairs that the round began with."""
        experts = []
        for update in (u for u in updates if u.num_examples):
            trained = changes_of({**modules.module, **update.arrays})
            changes = {layer: pair.minus(start[layer]) for layer, pair in trained.items()}
            experts.append(Expert(changes, update.num_examples, update.statistics, update.client))
        check_compatible(experts)
        check_moved(experts)
        return experts

    def _draw(self, phase: Phase) -> Draw:
        return lambda *purpose: phase.generator(type(self).__name__, *purpose)

    def task_experts(self, state: State) -> list[Expert]:
        """The tasks' modules against W0, as far as they can be merged; none before there is a second task."""
        modules = Modules.of(state)
        if self.at == "round" or not modules.past:
            return []
        kept = split_tasks(state.get(KEPT, {}))
        ready = modules.all_tasks[: len(kept) or None]  # between rounds the current task has not reported yet
        return [Expert(changes_of(module), 1.0, kept[t] if kept else {}, t) for t, module in enumerate(ready)]

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The tasks' modules merged; one alone is deployed as it is."""
        experts = self.task_experts(state)
        if not experts:
            return super().deploy(state, phase)
        check_compatible(experts)
        alone = len(experts) == 1
        merged: dict[str, np.ndarray] = {}
        for layer, change in experts[0].changes.items() if alone else self.combine(experts, self._draw(phase)):
            merged |= _arrays(layer, change)
        return {**merged, **Modules.of(state).head}
