"""A run's plan, fixed before it starts, and its progress, which a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from fcil.arrays import State, digest, ungrouped
from fcil.config import Config
from fcil.errors import ConfigError
from fcil.method import Backbone, Method, Phase, Task
from fcil.scenario.census import Census
from fcil.scenario.tasks import carried_out, make_tasks
from fcil.server.traffic import Ledger

__all__ = [
    "Plan", "Progress", "Storage", "check_sums", "how_to_ask_more", "initial_progress", "make_plan", "participants",
    "phase_weights", "updates_asked",
]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A plan holds all that is fixed before a run starts: settings, method, numbers of samples, backbone, phases."""

    config: Config
    method: Method
    census: Census
    backbone: Backbone
    phases: tuple[Phase, ...]
    rehearsed: bool = False
    """Whether replies are imitated: then no filter is applied, and what they claim of their samples is not checked."""

    @property
    def sites_evaluate(self) -> bool:
        """Tell whether every client is a site that evaluates on test images of its own."""
        return self.config.sites_evaluate

    @cached_property
    def blocks(self) -> tuple[Task, ...]:
        """The tasks of evaluation: those of training, also where all classes are learned at once."""
        return carried_out(make_tasks(len(self.census.classes), self.config.tasks), self.config.tasks)

    def evaluates(self, phase: Phase) -> bool:
        """Tell whether the run evaluates after a phase: after a task, and after every round where asked."""
        every_round = self.config.run.evaluate_rounds and self.method.acting(phase).evaluates(phase)
        return self.ends_task(phase.index) or every_round

    def ends_task(self, position: int) -> bool:
        """Tell whether the phase at `position` is the last of its task."""
        return position + 1 == len(self.phases) or self.phases[position + 1].task != self.phases[position].task


class Storage(NamedTuple):
    """The bytes that server and clients store when a task is done."""

    task: int
    """Index of the task."""
    state: int
    """All arrays of the server's state."""
    clients: int
    """All arrays that the clients keep for themselves, together."""
    largest: int
    """The most that one client keeps."""


@dataclass(frozen=True)
class Progress:
    """A run's progress: all that it needs to go on, and all that a checkpoint holds."""

    position: int
    """Number of phases done."""
    state: State
    ledger: Ledger = field(default_factory=Ledger)
    correct: tuple[tuple[int, ...], ...] = ()
    """Row t, column s: number of correct answers on task s after task t."""
    at_places: tuple[tuple[int, ...], ...] = ()
    """Row p, column s: number of correct answers on the images of task s in place p, after the last task done."""
    class_correct: tuple[tuple[int, ...], ...] = ()
    """Rows of correct answers on each class seen, in the order of arrival, after the last tasks done; none where sites
    keep their classes to themselves. A run that an earlier version began may have fewer rows than `correct`."""
    kept: Mapping[int, int] = field(default_factory=dict)
    """Client -> bytes of the arrays that it keeps for itself, by its last good update; without those of no bytes."""
    storage: tuple[Storage, ...] = ()
    """Bytes stored after each task done; fewer entries in a run that an earlier version began."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Bytes up and down, seconds by activity, images and refused updates so far; and the most memory of a client."""
    unevaluated: bool = False
    """Whether the evaluation after the last phase done is still to come: that phase is not asked for again."""

    def add(self, **amounts: float) -> "Progress":
        """The progress with amounts added to its totals."""
        names = {*self.totals, *amounts}
        return replace(self, totals={n: self.totals.get(n, 0) + amounts.get(n, 0) for n in sorted(names)})

    def raise_to(self, **amounts: float) -> "Progress":
        """The progress with totals that are maxima, not sums, raised to these amounts."""
        return replace(self, totals={**self.totals, **{n: max(a, self.totals.get(n, 0)) for n, a in amounts.items()}})

    def sha256(self) -> str:
        """The SHA-256 of the state's arrays."""
        return digest(ungrouped(self.state))


def make_plan(config: Config, method: Method, census: Census, backbone: Backbone) -> Plan:
    """Lay out all phases of a run. Raises ConfigError where the method's settings do not suit them."""
    phases: list[Phase] = []
    for place, task in enumerate(census.tasks, 1):  # the one task of all classes at once has the last one's index
        kinds = method.phases(task, config.train.rounds)
        counts = census.train[task.index]
        for position, kind in enumerate(kinds, 1):
            counts_to_come = len(kinds) - position, len(census.tasks) - place
            numbers_of_data = int((counts > 0).sum()), int(counts.sum())
            phases.append(Phase(len(phases), kind, task, position, config.run.seed, *counts_to_come, *numbers_of_data))
    method.check_phases(phases)
    return Plan(config, method, census, backbone, tuple(phases))


def initial_progress(plan: Plan) -> Progress:
    """The progress before the first phase: the method's initial state."""
    return Progress(0, plan.method.init(plan.backbone, len(plan.census.classes), plan.config.run.seed))


def participants(plan: Plan, phase: Phase) -> list[int]:
    """The clients asked in a phase: a share or number of those with samples in a round, all of them in a report."""
    train = plan.config.train
    share, number = (train.participation, train.participants) if phase.kind == "train" else (1.0, 0)
    return plan.census.participants(phase.task.index, phase.round, share, phase.seed, number)


def how_to_ask_more(plan: Plan, otherwise: str) -> str:
    """Say, in a message, what to change so that a phase asks more clients, or `otherwise`."""
    if plan.method.stream != "federated":
        return f"{plan.config.method.label} has one client by itself; leave the setting out"
    return (
        "clients without samples of a task are not asked: raise train.participation, partition.clients or "
        f"partition.beta, or {otherwise}"
    )


def check_sums(plan: Plan) -> None:
    """Raise ConfigError for a phase with secure sums in which one client alone is asked: its sum is its numbers."""
    for phase in plan.phases if plan.config.run.secure_sums else ():
        if (asked := len(participants(plan, phase))) < 2:
            raise ConfigError(
                f"run.secure_sums: {phase} asks {asked} client, and a sum of one is its numbers; "
                + how_to_ask_more(plan, "cut tasks so that two clients at least have samples of each")
            )


def phase_weights(plan: Plan) -> list[float]:
    """Work of each phase in forward passes over images: a training step costs about three, a report one."""
    train = plan.config.train

    def weight(phase: Phase) -> float:
        counts = plan.census.train[phase.task.index]
        share = train.participation
        if train.participants:
            share = min(1.0, train.participants / max(1, int((counts > 0).sum())))
        return int(counts.sum()) * (3 * train.epochs * share + 1 if phase.kind == "train" else 1.0)

    return [weight(phase) for phase in plan.phases]


def updates_asked(plan: Plan) -> int:
    """Number of updates that a whole run asks for."""
    return sum(len(participants(plan, phase)) for phase in plan.phases)
