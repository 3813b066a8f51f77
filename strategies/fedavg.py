"""FedAvg on LoRA: A and B train together and are averaged separately."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays, State, as_float32, weighted_total
from fcil.errors import MergeError
from fcil.method import Backbone, Broadcast, ClientUpdate, Local, Method, Phase
from fcil.model import head
from fcil.model.lora import A, B, Lora
from fcil.options import Option

__all__ = ["FedAvg"]

EXAMPLES = "examples"


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

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """sum_i n_i (theta_i - start) for every array that trained, and sum_i n_i."""
        counts = [u.num_examples for u in updates]
        return {
            **weighted_total([u.arrays for u in updates], counts, broadcast.arrays),
            EXAMPLES: np.array(sum(counts), np.float64),
        }

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """sum_i n_i theta_i / sum_i n_i.

        Raises:
            MergeError: nobody has any examples.
        """
        if not sums[EXAMPLES] > 0:
            raise MergeError(f"a mean weighted by examples needs some; the clients have {sums[EXAMPLES]:g}")
        merged = {
            group: {name: a + sums[name] / sums[EXAMPLES] if name in sums else a for name, a in arrays.items()}
            for group, arrays in state.items()
        }
        return {group: as_float32(arrays) for group, arrays in merged.items()}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The module and all head rows."""
        return {**state["module"], **state["head"]}
