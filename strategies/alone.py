"""Alone: centralised training of each task by itself, the reference for forward transfer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.ridge import NEVER
from fcil.method import Averaging, Phase, Stream, head

from ._adapters import AdapterSettings

__all__ = ["Alone"]


@dataclass(frozen=True, kw_only=True)
class Alone(AdapterSettings, Averaging):
    """Reference: centralised training of each task by itself.

    One client holds a task's data, trains a new module on the frozen backbone and a new head, and knows no other task.
    After task t the accuracy on task t is what it reaches without clients and beside no other task's classes: the
    reference of forward transfer in Powder and C2Prompt (docs/figures.md). Its accuracy over all classes says nothing,
    since every earlier class is forgotten. The budget is the federated methods': rounds x epochs passes.
    """

    stream: ClassVar[Stream] = "each_alone"

    @property
    def starts_fresh(self) -> bool:
        """Tell that each task begins with a new module on the frozen backbone."""
        return True

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The task's module and head rows; rows of other tasks, under which no image falls."""
        arrays = dict(super().deploy(state, phase))
        for task in range(phase.task.index):
            weight, bias = head.weight(task), head.bias(task)
            arrays |= {weight: np.zeros_like(arrays[weight]), bias: np.full_like(arrays[bias], NEVER)}
        return arrays
