"""FedAvg on LoRA: A and B train together and are averaged separately."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fcil.arrays import Arrays, State, weighted_mean
from fcil.method import Backbone, Broadcast, ClientUpdate, Local, Method, Phase
from fcil.model import head
from fcil.model.lora import A, B, Lora
from fcil.options import Option

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg(Method):
    """The mean of A and of B, weighted by examples; one module goes on through all tasks.

    McMahan et al., AISTATS 2017, arXiv 1602.05629, on LoRA factors (FedIT, Zhang et al., arXiv 2305.05644). The product
    of the means is not the mean of the products; that error is part of the method.
    """

    rank: Annotated[int, Option("rank of every layer's LoRA pair", low=1)] = 16

    @property
    def adapter(self) -> Lora:
        """A pair on qkv, proj, fc1 and fc2 of every block."""
        return Lora(self.rank)

    def local(self, phase: Phase) -> Local:
        """Train both factors and the head's new rows."""
        return Local(trains=(f"*{A}", f"*{B}", head.block(phase.task.index)))

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """The module before the first task; new head rows before each."""
        module = state.get("module") or self.adapter.initial(backbone, phase.generator("lora"))
        rows = head.new_rows(phase.task, backbone.width, phase.generator("head"))
        return {**state, "module": module, "head": {**state.get("head", {}), **rows}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The module and the current head rows."""
        task = phase.task.index
        rows = {name: state["head"][name] for name in (head.weight(task), head.bias(task))}
        return Broadcast({**state["module"], **rows})

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """sum_i n_i theta_i / sum_i n_i for every array that trained."""
        merged = weighted_mean([u.arrays for u in updates], [u.num_examples for u in updates])
        return {group: {name: merged.get(name, a) for name, a in arrays.items()} for group, arrays in state.items()}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The module and all head rows."""
        return {**state["module"], **state["head"]}
