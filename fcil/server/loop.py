"""The loop over tasks and rounds, the same for every transport: an exchange carries its requests and replies.

    for each phase:  ask -> exchange -> check -> receive (merge) -> evaluate at a task's end -> save

`ask` and `receive` are pure, so that another driver (a Flower ServerApp that is not ours) can take the same steps.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from fcil.arrays import Arrays, State, digest, ungrouped
from fcil.config import Config
from fcil.errors import MergeError, RunError
from fcil.method import Backbone, Broadcast, ClientUpdate, Local, Method, Phase, Task, as_broadcast
from fcil.scenario.scenario import Scenario
from fcil.server.replies import Emit, Gathered, Reply, gather, groups
from fcil.server.traffic import Ledger, send
from fcil.server.validation import Expected, expected
from fcil.threads import threads

__all__ = [
    "Exchange",
    "Plan",
    "Progress",
    "Request",
    "Watch",
    "ask",
    "updates_asked",
    "make_plan",
    "receive",
    "run",
    "initial_progress",
]


@dataclass(frozen=True)
class Request:
    """What the server asks of the clients of one phase."""

    phase: Phase
    method: Method
    """The method that acts in this phase; stays on the server, as clients build their own."""
    broadcast: Broadcast
    num_examples: dict[int, int]
    """Client that is asked -> number of its training samples in this task."""
    state: State
    """The server's state from which the broadcast was made; stays on the server."""
    local: Local
    groups: tuple[tuple[int, ...], ...] = ()
    """Groups of clients whose updates are summed by the worker that trains them; empty: every client sends its own."""

    @property
    def expected(self) -> Expected:
        """The names, shapes and counts of a good reply."""
        return expected(self.phase, self.broadcast, self.local, self.num_examples)


class Exchange(Protocol):
    """Carries requests to clients and replies back: in this process, over Ray, over a network."""

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Yield replies in the order of their arrival; a client that fails is a `Failure`, never an exception."""

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Count the correct answers on every task seen, (task.index + 1,), with the deployed arrays in the model."""

    def close(self) -> None:
        """End the processes that were started for the run."""


Watch = Callable[[Request, Sequence[ClientUpdate], State, bool], Mapping[str, Any]]
"""(request, good updates, the state after the merge, whether a task ends with it) -> an event for the records."""


@dataclass(frozen=True)
class Plan:
    """What is fixed before a run starts: settings, method, scenario, backbone and phases."""

    config: Config
    method: Method
    scenario: Scenario
    backbone: Backbone
    phases: tuple[Phase, ...]

    def ends_task(self, position: int) -> bool:
        """Whether the phase at `position` is the last of its task."""
        return position + 1 == len(self.phases) or self.phases[position + 1].task != self.phases[position].task


@dataclass(frozen=True)
class Progress:
    """Where a run stands: all that it needs to go on, and what a checkpoint holds."""

    position: int
    """Number of phases done."""
    state: State
    ledger: Ledger = field(default_factory=Ledger)
    correct: tuple[tuple[int, ...], ...] = ()
    """Row t, column s: number of correct answers on task s after task t."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Bytes up and down, seconds by activity, images and refused updates so far; and the most memory of a client."""

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


def make_plan(config: Config, method: Method, scenario: Scenario, backbone: Backbone) -> Plan:
    """Lay out all phases of a run."""
    phases: list[Phase] = []
    for task in scenario.tasks:
        kinds = method.phases(task, config.train.rounds)
        for position, kind in enumerate(kinds, 1):
            phases.append(Phase(len(phases), kind, task, position, config.run.seed, len(kinds) - position))
    return Plan(config, method, scenario, backbone, tuple(phases))


def initial_progress(plan: Plan) -> Progress:
    """The progress before the first phase: the method's initial state."""
    return Progress(0, plan.method.init(plan.backbone, len(plan.scenario.order), plan.config.run.seed))


def _participants(plan: Plan, phase: Phase) -> list[int]:
    share = plan.config.train.participation if phase.kind == "train" else 1.0
    return plan.scenario.participants(phase.task.index, phase.round, share, phase.seed)


def updates_asked(plan: Plan) -> int:
    """Number of updates that a whole run asks for."""
    return sum(len(_participants(plan, phase)) for phase in plan.phases)


def ask(plan: Plan, progress: Progress) -> Request:
    """Make the next request. A round asks a share of the clients, a report asks all; both only those with samples."""
    phase = plan.phases[progress.position]
    state = progress.state if phase.round > 1 else plan.method.begin(progress.state, phase, plan.backbone)
    clients = _participants(plan, phase)
    counts = {client: plan.scenario.num_examples(phase.task.index, client) for client in clients}
    grouped = tuple(tuple(g) for g in groups(clients)) if plan.config.run.aggregate_on_worker else ()
    method = plan.method.acting(phase)
    return Request(phase, method, method.broadcast(state, phase), counts, state, method.local(phase), grouped)


def _merged(plan: Plan, request: Request, gathered: Gathered) -> State:
    with threads(plan.config.run.threads):
        if request.groups:
            return request.method.merge_sums(request.state, request.phase, gathered.sums())
        in_order = sorted(gathered.updates, key=lambda u: u.client)
        return request.method.merge(request.state, request.phase, in_order)


def receive(plan: Plan, progress: Progress, request: Request, gathered: Gathered) -> Progress:
    """The progress after checked updates are merged, in the order of their clients.

    Raises:
        RunError: fewer good updates than `run.min_clients`, or a merge whose values are not finite.
        MergeError: the method cannot merge these updates; names the phase.
    """
    needed = min(plan.config.run.min_clients, len(request.num_examples))
    if len(gathered.updates) < needed:
        raise RunError(
            f"{request.phase}: {len(gathered.updates)} of {len(request.num_examples)} clients sent a good update, but "
            f"run.min_clients = {needed}; see `refused` in metrics.jsonl, mend the cause and go on with `fcil resume`"
        )
    try:
        state = _merged(plan, request, gathered)
    except MergeError as error:
        raise MergeError(f"{request.phase}: {error}") from error
    for name, a in ungrouped(state).items():
        if not np.isfinite(a).all():
            raise RunError(
                f"{request.phase}: merging made {name} infinite or NaN, so this phase is not kept; a client sent "
                "values that are finite but far out of scale. Find it in metrics.jsonl and go on with `fcil resume`"
            )
    return replace(progress, position=progress.position + 1, state=state)


def _evaluate(plan: Plan, progress: Progress, phase: Phase, exchange: Exchange, emit: Emit) -> Progress:
    """Evaluate after a task, and after every round where asked; only the former is a row of the matrix."""
    ends_task = plan.ends_task(phase.index)
    if not ends_task and not plan.config.run.evaluate_rounds:
        return progress
    start = time.perf_counter()
    deployed = plan.method.deploy(progress.state, phase)
    deployed_at = time.perf_counter()
    correct = [int(r) for r in exchange.evaluate(deployed, phase.task)]
    seconds = time.perf_counter() - deployed_at
    total = [len(t) for t in plan.scenario.tests[: len(correct)]]
    emit({
        "event": "task" if ends_task else "round", "phase": phase.index, "task": phase.task.index, "round": phase.round,
        "correct": correct, "total": total, "accuracy": sum(correct) / sum(total), "seconds": seconds,
    })  # fmt: skip
    rows = (*progress.correct, tuple(correct)) if ends_task else progress.correct
    return replace(progress, correct=rows).add(seconds_merging=deployed_at - start, seconds_evaluation=seconds)


def step(plan: Plan, progress: Progress, exchange: Exchange, emit: Emit, watch: Watch | None = None) -> Progress:
    """Take one phase: ask the clients, check and merge their replies, and evaluate where a task ends.

    Raises:
        RunError: a client's code raised an exception, unless `run.on_client_error` is "skip"; or as `receive`.
        MergeError: as `receive`.
    """
    request = ask(plan, progress)
    phase, clients = request.phase, list(request.num_examples)
    # a group gets one copy, and counts as one holder of it
    receivers, receives = (
        (range(len(request.groups)), as_broadcast) if request.groups else (clients, request.local.receives)
    )
    ledger, down = send(progress.ledger, request.broadcast, receivers, receives)
    emit({
        "event": "phase", "phase": phase.index, "kind": phase.kind, "task": phase.task.index, "round": phase.round,
        "clients": clients, "download_bytes": down,
    })  # fmt: skip
    sent_at = time.perf_counter()
    arriving, on_error = exchange(request), plan.config.run.on_client_error
    replies = gather(request.method, request.expected, request.broadcast, arriving, emit, on_error)
    updates = replies.updates
    replied_at = time.perf_counter()
    progress = receive(plan, replace(progress, ledger=ledger), request, replies)
    merged_at = time.perf_counter()
    emit({
        "event": "merged", "phase": phase.index, "task": phase.task.index, "round": phase.round,
        "updates": len(updates), "upload_bytes": replies.nbytes, "seconds_clients": replied_at - sent_at,
        "seconds_merge": merged_at - replied_at, "sha256": progress.sha256(),
    })  # fmt: skip
    progress = progress.add(
        upload_bytes=replies.nbytes, download_bytes=down, refused=replies.lost, seconds_clients=replied_at - sent_at,
        seconds_merging=merged_at - replied_at, images=sum(u.metrics.get("images", 0) for u in updates),
    )  # fmt: skip
    peaks = [u.metrics["peak_memory_bytes"] for u in updates if "peak_memory_bytes" in u.metrics]
    progress = progress.raise_to(peak_memory_bytes=max(peaks)) if peaks else progress
    if watch is not None:
        emit(watch(request, sorted(updates, key=lambda u: u.client), progress.state, plan.ends_task(phase.index)))
    return _evaluate(plan, progress, phase, exchange, emit)


def run(
    plan: Plan,
    progress: Progress,
    exchange: Exchange,
    emit: Emit,
    save: Callable[[Progress], None],
    watch: Watch | None = None,
) -> Progress:
    """Run all phases that are left; `save` is called after every phase, `watch` after every merge."""
    while progress.position < len(plan.phases):
        start = time.perf_counter()
        progress = step(plan, progress, exchange, emit, watch)
        progress = progress.add(seconds_total=time.perf_counter() - start)
        save(progress)
    return progress
