"""The choice of what clients train, the setting `adapter`, and the base of the methods that average it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fcil.arrays import Arrays
from fcil.method import REPORT, TRAIN, Averaging, Broadcast, ClientUpdate, Kind, Phase, Task
from fcil.model.adapters import parse_adapter
from fcil.model.full import Full
from fcil.model.weight_adapter import WeightAdapter
from fcil.options import Option

__all__ = ["AdapterAveraging", "AdapterSettings", "FirstTaskAveraging", "of_one_weight"]


def of_one_weight(updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
    """Let clients count alike in an average by examples; those without any still do not count."""
    return [replace(update, num_examples=min(1, update.num_examples)) for update in updates]


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Stands before a family of methods among a method's bases: clients train the adapter that the settings name."""

    rank: Annotated[
        int, Option("rank of every layer's LoRA pair, or numbers of a kernel's point; full and head have none", low=1)
    ] = 16
    adapter_text: Annotated[
        str,
        Option("what clients train: lora, snell, snella, loftq, full or head (fcil adapters)", key="adapter"),
    ] = "lora"

    def __post_init__(self) -> None:
        parse_adapter(self.adapter_text, self.rank)

    @property
    def adapter(self) -> WeightAdapter | None:
        """The adapter that `adapter` names; None trains the head's rows alone."""
        return parse_adapter(self.adapter_text, self.rank)


@dataclass(frozen=True, kw_only=True)
class AdapterAveraging(AdapterSettings, Averaging):
    """Average what the clients train, array by array; the base of federated averaging and of what is built on it."""

    @property
    def merges(self) -> str:
        """Say that rounds are merged, and where the mean of arrays is not the mean of the changes that they make."""
        exact = self.adapter is None or isinstance(self.adapter, Full)
        return "rounds" if exact else "rounds, inexactly (arrays, not changes)"


@dataclass(frozen=True, kw_only=True)
class FirstTaskAveraging(AdapterAveraging):
    """The averaging of the first task's rounds, in a method whose report ends that task and all training."""

    alike: bool = False
    """Whether clients count alike, and not by their examples."""

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of averaging; of clients of one weight, if they count alike."""
        return super().sums(phase, broadcast, of_one_weight(updates) if self.alike else updates)

    @property
    def starts_fresh(self) -> bool:
        """The adapter's schedule counts this task's rounds alone."""
        return True

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and the report, which is not this method's but belongs to its task."""
        return (*(TRAIN,) * rounds, REPORT)
