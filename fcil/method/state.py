"""The groups of the state that methods with trained modules share, by name and with types.

    module  the adapter's arrays of the current task: LoRA pairs, prompts
    head    the head's rows of all tasks so far
    past    finished tasks' modules, task<t>/<name>, where each task has a module of its own
    trained what a schedule has changed in `module` for the next round (sparsities), as it was in the round before

Any two methods that keep to this layout can be combined: one merges over clients, the other over tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fcil.arrays import Arrays, State
from fcil.method import head
from fcil.method.phases import Task

__all__ = ["HEAD", "MODULE", "PAST", "TRAINED", "Modules", "of_task", "split_tasks", "without"]

MODULE, HEAD, PAST, TRAINED = "module", "head", "past", "trained"


def without(state: State, group: str) -> State:
    """The state without one of its groups, or as it is where it has none of this name."""
    return {name: arrays for name, arrays in state.items() if name != group}


def of_task(task: int, name: str) -> str:
    """The name that an array of a finished task is kept under."""
    return f"task{task}/{name}"


def split_tasks(arrays: Arrays) -> list[dict[str, np.ndarray]]:
    """Finished tasks' arrays, task by task, from names made by `of_task`.

    >>> import numpy as np
    >>> [sorted(task) for task in split_tasks({"task1/b": np.zeros(1), "task0/a": np.zeros(1)})]
    [['a'], ['b']]
    """
    tasks: dict[int, dict[str, np.ndarray]] = {}
    for key, a in arrays.items():
        task, _, name = key.removeprefix("task").partition("/")
        tasks.setdefault(int(task), {})[name] = a
    return [tasks[t] for t in sorted(tasks)]


@dataclass(frozen=True)
class Modules:
    """A view of a state: its groups `module`, `head` and `past`, empty where the state has none."""

    module: Arrays = field(default_factory=dict)
    head: Arrays = field(default_factory=dict)
    past: Arrays = field(default_factory=dict)
    state: State = field(default_factory=dict, repr=False)
    """The whole state, groups of other kinds included."""

    @classmethod
    def of(cls, state: State) -> Modules:
        """The view of a state."""
        return cls(state.get(MODULE, {}), state.get(HEAD, {}), state.get(PAST, {}), state)

    @classmethod
    def trained(cls, state: State) -> Modules:
        """The view of a state in which the module is as it was trained last, as it is deployed and reported of."""
        modules = cls.of(state)
        return replace(modules, module={**modules.module, **state[TRAINED]}) if TRAINED in state else modules

    @property
    def finished(self) -> list[dict[str, np.ndarray]]:
        """The modules of finished tasks, in their order."""
        return split_tasks(self.past)

    @property
    def all_tasks(self) -> list[Arrays]:
        """The modules of finished tasks, then the current one."""
        return [*self.finished, self.module]

    def head_rows(self, *tasks: int) -> dict[str, np.ndarray]:
        """The rows and biases of some tasks' classes."""
        names = [name for task in tasks for name in (head.weight(task), head.bias(task))]
        if lost := [name for name in names if name not in self.head]:
            raise KeyError(
                f"the state has no {lost[0]}: `begin` adds what super().begin(...) does, and `merge` returns all "
                "groups of the state that it was given"
            )
        return {name: self.head[name] for name in names}

    def replaced(self, arrays: Arrays) -> State:
        """The state with those arrays of `module` and `head` replaced that `arrays` has under the same names."""
        groups = {MODULE: self.module, HEAD: self.head}
        new = {g: {n: arrays.get(n, a) for n, a in old.items()} for g, old in groups.items() if g in self.state}
        return {**self.state, **new}

    def with_module(self, module: Arrays, head_rows: Arrays | None = None) -> State:
        """The state with another module, and with new values for some head rows."""
        return {**self.state, MODULE: module, **({HEAD: {**self.head, **head_rows}} if head_rows else {})}

    def begun(self, task: Task, module: Arrays, rows: Arrays, keep: bool) -> State:
        """The state at a task's start: a new module, new head rows, and with `keep` the last module among the past."""
        past = {of_task(task.index - 1, n): a for n, a in self.module.items()} if keep else {}
        state = {**self.state, HEAD: {**self.head, **rows}, MODULE: module}
        return {**state, PAST: {**self.past, **past}} if past else state
