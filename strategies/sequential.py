"""Sequential: centralised training, task by task, a lower bound."""

from dataclasses import dataclass
from typing import ClassVar

from fcil.method import Averaging, Stream

from ._adapters import AdapterSettings

__all__ = ["Sequential"]


@dataclass(frozen=True, kw_only=True)
class Sequential(AdapterSettings, Averaging):
    """Lower bound: centralised training, task by task.

    One client holds every task's data and goes on training one module; nothing guards against forgetting.
    The lower bound of class-incremental learning ("fine-tuning"), of an adapter and a linear head. The budget is the
    federated methods': rounds x epochs passes over each task, an optimiser built anew in each round.
    """

    stream: ClassVar[Stream] = "pooled"
