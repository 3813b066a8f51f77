"""What methods that train LoRA pairs share: how their state is laid out, and how a task begins.

State, by group:

    module  the pair of every layer, <layer>.lora_A (rank, in) and <layer>.lora_B (out, rank), of the current task
    head    the head's rows of all tasks so far
    past    finished tasks' pairs, task<t>/<layer>.lora_A and so on, where each task has a pair of its own

Any two methods that keep to this layout go together in `compose`: one merges over clients, the other over tasks.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.lowrank import LowRank
from fcil.method import Backbone, Broadcast, Method, Phase
from fcil.model import head
from fcil.model.lora import A, B, Lora, uniform
from fcil.options import Option

__all__ = ["LoraMethod", "Rank", "head_rows", "living", "of_task", "past_tasks"]

Rank = Annotated[int, Option("rank of every layer's LoRA pair", low=1)]


def of_task(task: int, name: str) -> str:
    """The name that an array of a finished task is kept under."""
    return f"task{task}/{name}"


def past_tasks(arrays: Arrays) -> list[dict[str, np.ndarray]]:
    """Earlier tasks' arrays, task by task, from names made by `of_task`."""
    tasks: dict[int, dict[str, np.ndarray]] = {}
    for key, a in arrays.items():
        task, _, name = key.removeprefix("task").partition("/")
        tasks.setdefault(int(task), {})[name] = a
    return [tasks[t] for t in sorted(tasks)]


def head_rows(state: State, phase: Phase) -> dict[str, np.ndarray]:
    """The current task's rows and biases."""
    return {name: state["head"][name] for name in (head.weight(phase.task.index), head.bias(phase.task.index))}


def living(pair: LowRank, layer: str, phase: Phase) -> LowRank:
    """The pair with a random row of A beside every zero column of B: both zero, they could never learn again."""
    unused = np.abs(pair.a).max(1) == 0
    return LowRank(pair.b, np.where(unused[:, None], uniform(phase.generator("unused", layer), pair.a.shape), pair.a))


@dataclass(frozen=True, kw_only=True)
class LoraMethod(Method):
    """The base of the methods that train LoRA pairs and a linear head."""

    rank: Rank = 16

    @property
    def adapter(self) -> Lora:
        """A pair on qkv, proj, fc1 and fc2 of every block."""
        return Lora(self.rank)

    @property
    def remembers(self) -> bool:
        """Whether every task's pairs are kept when it ends, to be merged with the others'."""
        return False

    @property
    def fresh(self) -> bool:
        """Whether each task begins with new pairs, on W0 alone; otherwise the last task's go on."""
        return self.remembers

    @property
    def zero(self) -> str:
        """The factor that starts at zero: the one that trains first."""
        return B

    def factors(self, phase: Phase) -> tuple[str, ...]:
        """The factors that train in this round."""
        return A, B

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """A pair for the task, and the new classes' head rows."""
        rows = head.new_rows(phase.task, backbone.width, phase.generator("head"))
        state = {**state, "head": {**state.get("head", {}), **rows}}
        if "module" in state and self.remembers:
            done = {of_task(phase.task.index - 1, name): a for name, a in state["module"].items()}
            state = {**state, "past": {**state.get("past", {}), **done}}
        if "module" in state and not self.fresh:
            return state
        return {**state, "module": self.adapter.initial(backbone, phase.generator("lora"), zero=self.zero)}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The current pairs; for training the current head rows too."""
        return Broadcast({**state["module"], **(head_rows(state, phase) if phase.kind == "train" else {})})

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The pairs as they are, and all head rows."""
        return {**state["module"], **state["head"]}
