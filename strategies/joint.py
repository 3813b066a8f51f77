"""Joint: centralised training on all data at once, an upper bound."""

from dataclasses import dataclass
from typing import ClassVar

from fcil.method import Averaging, Stream

from ._adapters import AdapterSettings

__all__ = ["Joint"]


@dataclass(frozen=True, kw_only=True)
class Joint(AdapterSettings, Averaging):
    """Upper bound: centralised training on all data at once.

    One client holds the data of all tasks and trains on all classes in one task: no clients, no sequence.
    The upper bound of class-incremental learning ("multi-task"), of an adapter and a linear head. The budget is the
    federated methods': rounds x epochs passes over each sample, an optimiser built anew in each round.
    """

    stream: ClassVar[Stream] = "at_once"
