"""Compose: merge over clients by one method and over tasks by another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from fcil.arrays import Arrays, State
from fcil.errors import ConfigError
from fcil.method import TRAIN, Averaging, Backbone, Kind, Method, Model, Phase, Task
from fcil.method.averaging import begin_task
from fcil.model.lora import Lora
from fcil.options import Option

from ._lora import Rank
from ._merging import MergeMethod
from ._parts import lora_method

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Compose"]

KEEP = "fedavg"
BEGINNINGS = (Method, Averaging, MergeMethod)
"""Classes whose `init` and `begin` do for a part what compose does itself."""


def _check_part(part: Averaging, where: str, reports: bool) -> None:
    """Refuse a part that would lack something which compose never asks of it, and train like another method without.

    Args:
        reports: whether the part's reports are asked for.
    """
    for name in ("init", "begin"):
        owner = next(kind for kind in type(part).__mro__ if name in vars(kind))
        if owner not in BEGINNINGS:
            raise ConfigError(
                f"{where}: begins in its own way ({owner.__name__}.{name}), and compose never asks it to, but begins "
                "tasks with new pairs and head rows alone; run it by itself, as method.name"
            )
    if not reports and part.task_report(Task(0, 0, 1)):
        raise ConfigError(
            f"{where}: needs a report after the rounds of each task, and only that of method.task is asked for; run it "
            "by itself, as method.name"
        )


@dataclass(frozen=True, kw_only=True)
class Compose(Method):
    """Merge over clients by one method and over tasks by another.

    Each is a method of its own; `fcil methods NAME` shows its settings. `task = "fedavg"` merges nothing over tasks:
    one pair goes on. What clients train is the first one's, what is deployed the second one's.
    """

    refused: ClassVar[Mapping[str, str]] = {"adapter": "the methods that are composed merge LoRA pairs; leave it out"}

    round: Annotated[str, Option("the merge over clients: a method, or a method with settings, name(key = value)")] = (
        "fedavg"
    )
    rank: Rank = 16
    task: Annotated[str, Option("the merge over tasks, written alike; fedavg lets one pair go on")] = "lorm"
    _round: Averaging = field(init=False, repr=False, compare=False)
    _task: Averaging = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unused = {"adapter": "clients train that of method.task, which takes it as a setting"}
        object.__setattr__(self, "_round", lora_method(self.round, "round", {"rank": self.rank, "at": "round"}, unused))
        object.__setattr__(self, "_task", lora_method(self.task, "task", {"rank": self.rank, "at": "task"}))
        _check_part(self._round, f"method.round = {self.round!r}", reports=False)
        _check_part(self._task, f"method.task = {self.task!r}", reports=True)
        if not self._task.keeps_modules and self.task.strip() != KEEP:
            raise ConfigError(
                f"method.task = {self.task!r}: merges clients only; name a method that merges tasks (fcil methods), or "
                f'"{KEEP}", by which one pair goes on'
            )

    def acting(self, phase: Phase) -> Method:
        """The merge over clients in rounds; the merge over tasks in the reports that it needs."""
        return self._round.acting(phase) if phase.kind == TRAIN else self._task.acting(phase)

    @property
    def adapter(self) -> Lora:
        """The adapter of the merge over tasks; the factor that the merge over clients trains first starts at zero."""
        deployed, trained = cast(Lora, self._task.adapter), cast(Lora, self._round.adapter)
        return replace(deployed, zero=trained.zero)

    @property
    def merges(self) -> str:
        """Rounds, and tasks unless one pair goes on."""
        return "rounds, tasks" if self._task.keeps_modules else "rounds"

    @property
    def additive(self) -> bool:
        """Additive where both merges are."""
        return self._round.additive and self._task.additive

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where the rounds do not suit the merge over clients."""
        self._round.check_phases([phase for phase in phases if phase.kind == TRAIN])

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and the reports that merging tasks needs."""
        return (TRAIN,) * rounds + tuple(kind for kind in self._task.phases(task, rounds) if kind != TRAIN)

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """New pairs and head rows as the merge over tasks needs them."""
        flags = self._task.keeps_modules, self._task.starts_fresh
        return begin_task(state, phase, backbone, self.adapter, *flags)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """Deploy what the merge over tasks deploys."""
        return self._task.deploy(state, phase)

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """The scores of the merge over tasks, whose arrays are deployed."""
        return self._task.scores(model, images)
