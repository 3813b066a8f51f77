"""A method's trial run of two tasks, three clients and two rounds, with all that every phase took and gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from fcil.arrays import State, digest
from fcil.battery.form import check_state
from fcil.battery.memory import Memory
from fcil.battery.outcome import Broken, NotReached
from fcil.battery.tiny import BACKBONE, SIZE, client_data, patterns, tiny_vit
from fcil.battery.watch import Watch, WatchedModel
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.data.dataset import model_inputs
from fcil.errors import ConfigError
from fcil.method import Broadcast, ClientUpdate, Method, Phase, Task
from fcil.model.scoring import server_scores
from fcil.options import keys_of
from fcil.registry import build_method, method_class

__all__ = [
    "CLIENT", "CLIENTS", "DATA", "MERGE", "PARTS", "TASKS", "TRAIN", "PhaseExchange", "PhaseRecord", "Trial", "digests",
    "pictures", "small", "trial_of",
]  # fmt: skip

DATA = patterns()
TASKS = (Task(0, 0, 2), Task(1, 2, 2))
CLIENTS = 3
PARTS = [[np.flatnonzero(np.isin(DATA.train.labels, t.positions))[c::CLIENTS] for c in range(CLIENTS)] for t in TASKS]
TRAIN = Train(rounds=2, epochs=1, batch=4, lr=1e-2)
SMALL = {"rank": 2, "random": 24, "size": 24, "length": 3, "proxy_steps": 2}
"""Settings of many methods, at values that fit the tiny backbone."""
CLIENT = ("loss", "client_begin", "client_end", "local", "adapter")
MERGE = ("merge", "merge_sums", "sums")
"""The functions that do a client's work, and the server's."""

OwnArrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class PhaseExchange:
    """A phase up to the merge: what clients were sent and what they sent back."""

    phase: Phase
    before: State
    broadcast: Broadcast
    updates: list[ClientUpdate] = field(default_factory=list)
    stores: list[tuple[OwnArrays, OwnArrays]] = field(default_factory=list)
    """Each client's own arrays before and after."""


@dataclass(frozen=True)
class PhaseRecord:
    """A whole phase: a `PhaseExchange` and the state after it."""

    phase: Phase
    before: State
    broadcast: Broadcast
    updates: list[ClientUpdate]
    stores: list[tuple[OwnArrays, OwnArrays]]
    after: State


def _copies(arrays: Mapping[str, Any]) -> OwnArrays:
    return {name: a.copy() if isinstance(a, np.ndarray) else a for name, a in arrays.items()}


class Trial:
    """One method and its trial run, which is carried out when its records are first asked for."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.watch = Watch()
        self.memory = Memory(method)
        self.undeclared: list[tuple[Phase, int, tuple[str, ...]]] = []
        """Phase, client, arrays that changed though they are not declared."""
        self._exchanges: list[PhaseExchange] = []

    @cached_property
    def model(self) -> WatchedModel:
        """The resident model of the trial."""
        return self.fresh_model()

    def fresh_model(self) -> WatchedModel:
        """Build the model anew, as another process would."""
        return WatchedModel(tiny_vit(), self.method.adapter)

    def further_task(self) -> Phase:
        """The first phase of a task after those of the trial."""
        task = Task(len(TASKS), TASKS[-1].seen, 1)
        kinds = self.method.phases(task, TRAIN.rounds)
        return Phase(99, kinds[0], task, 1, 0, len(kinds) - 1)

    def work(
        self, phase: Phase, broadcast: Broadcast, client: int, store: OwnArrays, model: WatchedModel | None = None
    ) -> ClientUpdate:
        """Do a client's part of a phase; `store` is read and written."""
        *earlier, indices = (parts[client] for parts in PARTS[: phase.task.index + 1])
        data = client_data(DATA, indices, earlier)

        def work(sent: Broadcast) -> ClientUpdate:
            return run_client(self.method, model or self.model, data, TRAIN, phase, sent, client, store)

        return self.watch.call(f"client {client}'s work", phase, CLIENT, work, broadcast)

    def merge(self, record: PhaseExchange | PhaseRecord, state: State, updates: Sequence[ClientUpdate]) -> State:
        """Call the method's `merge` in the phase of `record`, with these updates; then let it have images scored."""
        method, phase = self.method.acting(record.phase), record.phase
        merged = self.watch.call("merge", phase, MERGE, method.merge, state, phase, updates)
        images = self.watch.call("server_images", phase, ("server_images",), method.server_images, merged, phase)
        if images is None:
            return merged
        scores = server_scores(self.method, self.model, self.deploy(merged, phase), images, SIZE, len(images))
        return self.watch.call("merge_scores", phase, ("merge_scores",), method.merge_scores, merged, phase, scores)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Call the method's `broadcast` in a phase."""
        return self.watch.call(
            "broadcast", phase, ("broadcast",), self.method.acting(phase).broadcast, state, phase
        )  # fmt: skip

    def deploy(self, state: State, phase: Phase) -> Mapping[str, np.ndarray]:
        """Call the method's `deploy` after a phase."""
        return self.watch.call("deploy", phase, ("deploy",), self.method.deploy, state, phase)

    def evaluates(self, phase: Phase) -> bool:
        """Tell whether a run with `run.evaluate_rounds` evaluates after a phase; it always does after a task's last."""
        method = self.method.acting(phase)
        return self.watch.call("evaluates", phase, ("evaluates",), method.evaluates, phase) or not phase.phases_left

    def begin(self, state: State, phase: Phase) -> State:
        """Call the method's `begin` at a task's start."""
        return self.watch.call("begin", phase, ("begin",), self.method.begin, state, phase, BACKBONE)

    @cached_property
    def phases(self) -> list[Phase]:
        """The phases of the trial's tasks, as a run lays them out."""
        phases: list[Phase] = []
        for task in TASKS:
            kinds, parts = self.method.phases(task, TRAIN.rounds), PARTS[task.index]
            for number, kind in enumerate(kinds, 1):
                counts_to_come = (len(kinds) - number, len(TASKS) - task.index - 1)
                numbers_of_data = (CLIENTS, sum(map(len, parts)))
                phases.append(Phase(len(phases), kind, task, number, 0, *counts_to_come, *numbers_of_data))
        return phases

    @cached_property
    def _run(self) -> tuple[list[PhaseRecord], Broken | None]:
        records: list[PhaseRecord] = []
        stores: list[OwnArrays] = [{} for _ in range(CLIENTS)]
        try:
            state = self.method.init(BACKBONE, TASKS[-1].seen, 0)
            for phase in self.phases:
                if phase.round == 1:
                    state = self.begin(state, phase)
                    check_state(self.method, state, phase, "begin")
                records.append(self._record(phase, state, stores))
                state = records[-1].after
        except Broken as broken:
            return records, broken
        return records, None

    def _record(self, phase: Phase, state: State, stores: list[OwnArrays]) -> PhaseRecord:
        exchange = PhaseExchange(phase, state, self.broadcast(state, phase))
        self._exchanges.append(exchange)
        for client, store in enumerate(stores):
            before = _copies(store)
            exchange.updates.append(self.work(phase, exchange.broadcast, client, store))
            exchange.stores.append((before, _copies(store)))
            if self.model.undeclared:
                self.undeclared.append((phase, client, self.model.undeclared))
        after = self.merge(exchange, state, exchange.updates)
        check_state(self.method, after, phase, *MERGE)
        return PhaseRecord(after=after, **{f.name: getattr(exchange, f.name) for f in fields(PhaseExchange)})

    @property
    def broken(self) -> Broken | None:
        """The reason why the run broke off, or None."""
        return self._run[1]

    @property
    def exchanges(self) -> list[PhaseExchange]:
        """List what passed between server and clients, as far as the run went.

        Raises:
            NotReached: no client was reached.
        """
        if self.broken and not any(exchange.updates for exchange in self._exchanges):
            raise NotReached("the run broke off before any client had answered")
        return self._exchanges

    @property
    def records_so_far(self) -> list[PhaseRecord]:
        """The records of the phases that were done: all, or those before the run broke off.

        Raises:
            NotReached: it broke off in the first.
        """
        if not self._run[0]:
            raise NotReached("the run broke off in its first phase")
        return self._run[0]

    @property
    def records(self) -> list[PhaseRecord]:
        """The records of all phases.

        Raises:
            NotReached: the run broke off.
        """
        if self.broken:
            raise NotReached("the run broke off")
        return self._run[0]


def digests(state: State) -> dict[str, str]:
    """SHA-256 of each group of a state."""
    return {group: digest(arrays) for group, arrays in state.items()}


def pictures(count: int) -> Tensor:
    """Give the first test images as model inputs, (count, 3, SIZE, SIZE)."""
    return model_inputs(DATA.test.images[np.arange(count)], DATA, SIZE)


def small(kind: type[Method]) -> dict[str, Any]:
    """Select those of the small settings that a method has."""
    keys = keys_of(kind)
    return {name: value for name, value in SMALL.items() if name in keys}


def trial_of(name: str, settings: Mapping[str, Any]) -> Trial:
    """Build the trial of a method by its name, with these settings and small ones for the rest.

    Raises:
        ConfigError: no such method, or settings that it, or the tiny backbone, does not admit.
    """
    method = build_method(name, {**small(method_class(name)), **settings})
    try:
        method.init(BACKBONE, TASKS[-1].seen, 0)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. Methods are tried out on a ViT of {BACKBONE.blocks} blocks of width {BACKBONE.width}; give "
            "smaller settings, as in --set rank=2"
        ) from error
    trial = Trial(method)
    method.check_phases(trial.phases)
    return trial
