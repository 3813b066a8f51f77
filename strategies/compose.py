"""Any merge over clients with any merge over tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated

from torch import Tensor

from fcil.arrays import Arrays, State
from fcil.client.training import Step
from fcil.errors import ConfigError
from fcil.method import TRAIN, Broadcast, ClientUpdate, Kind, Local, Method, Phase, Task
from fcil.model.adapted import AdaptedModel
from fcil.model.lora import Lora
from fcil.options import Option
from fcil.registry import build_method, method_class, parse_call

from ._lora import LoraMethod

__all__ = ["Compose", "from_text"]


def from_text(text: str, setting: str, given: dict[str, object]) -> LoraMethod:
    """The method that `name` or `name(key = value, ...)` says, with those of `given` that it knows.

    `setting` is the one of the method made of others that says it.

    Raises:
        ConfigError: no such method, one that trains no LoRA pairs, or settings that it does not admit.
    """
    where = f"method.{setting} = {text!r}"
    name, own = parse_call(text, where)
    kind = method_class(name, where)
    if not issubclass(kind, LoraMethod) or issubclass(kind, Compose):
        raise ConfigError(f"{where}: {name} does not train LoRA pairs that another method could merge")
    if odd := sorted(given.keys() & own.keys()):
        raise ConfigError(f"{where}: leave out {', '.join(odd)}; the outer method sets it")
    known = {f.name for f in fields(kind)}
    made = build_method(
        name, {**own, **{key: value for key, value in given.items() if key in known}},
        lambda key: f"{where}: {key}",
    )  # fmt: skip
    assert isinstance(made, LoraMethod)
    if made.stream != "federated":
        raise ConfigError(f"{where}: {name} has one client and merges nothing; run it by itself, as method.name")
    return made


KEEP = "fedavg"


@dataclass(frozen=True, kw_only=True)
class Compose(LoraMethod):
    """One method trains and merges over a round's clients, another merges over tasks.

    Each is a method of its own; `fcil methods NAME` shows its settings. `task = "fedavg"` merges nothing over tasks:
    one pair goes on. What clients train is the first one's, what is deployed the second one's.
    """

    round: Annotated[str, Option("the merge over clients: a method, or a method with settings, name(key = value)")] = (
        "fedavg"
    )
    task: Annotated[str, Option("the merge over tasks, written alike; fedavg lets one pair go on")] = "lorm"
    _round: LoraMethod = field(init=False, repr=False, compare=False)
    _task: LoraMethod = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_round", from_text(self.round, "round", {"rank": self.rank, "at": "round"}))
        object.__setattr__(self, "_task", from_text(self.task, "task", {"rank": self.rank, "at": "task"}))
        if not self._task.remembers and self.task.strip() != KEEP:
            raise ConfigError(
                f"method.task = {self.task!r}: merges clients only; name a method that merges tasks (fcil methods), or "
                f'"{KEEP}", by which one pair goes on'
            )

    @property
    def adapter(self) -> Lora:
        """As the merge over tasks deploys it."""
        return self._task.adapter

    def _half(self, phase: Phase) -> Method:
        return self._round if phase.kind == "train" else self._task

    @property
    def remembers(self) -> bool:
        """As the merge over tasks needs it."""
        return self._task.remembers

    @property
    def fresh(self) -> bool:
        """As the merge over tasks needs it."""
        return self._task.fresh

    @property
    def zero(self) -> str:
        """As the merge over clients trains them."""
        return self._round.zero

    @property
    def additive(self) -> bool:
        """Where both merges are."""
        return self._round.additive and self._task.additive

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and the reports that merging tasks needs."""
        return (TRAIN,) * rounds + tuple(kind for kind in self._task.phases(task, rounds) if kind != TRAIN)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """What the phase's merge sends."""
        return self._half(phase).broadcast(state, phase)

    def local(self, phase: Phase) -> Local:
        """What the phase's merge asks for."""
        return self._half(phase).local(phase)

    def loss(self, step: Step) -> Tensor:
        """The objective of the merge over clients."""
        return self._round.loss(step)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Those of the phase's merge."""
        return self._half(phase).sums(phase, broadcast, updates)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """That of the phase."""
        return self._half(phase).merge_sums(state, phase, sums)

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """That of the phase."""
        return self._half(phase).merge(state, phase, updates)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """What the merge over tasks deploys."""
        return self._task.deploy(state, phase)

    def scores(self, model: AdaptedModel, images: Tensor) -> Tensor:
        """As the merge over tasks, whose arrays are deployed, reads them."""
        return self._task.scores(model, images)
