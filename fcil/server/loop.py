"""The loop over tasks and rounds, the same for every transport: an exchange carries its requests and replies.

    for each phase:  ask -> exchange -> check (and filter) -> receive (merge) -> evaluate at a task's end -> save

With secure sums it saves between merge and evaluation too, as a second sum of a phase may tell of single clients.

`ask` and `receive` are pure, so that another driver (a Flower ServerApp that is not ours) can take the same steps.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from fcil.arrays import Arrays, State, in_rows, ungrouped
from fcil.errors import MergeError, RunError
from fcil.method import ClientUpdate, Phase, Task, as_broadcast
from fcil.method.groups import check_groups
from fcil.server.arrivals import Arrivals
from fcil.server.evaluation import answers_event, read_answers, with_answers, with_storage
from fcil.server.filtering import filtered
from fcil.server.gathering import gather
from fcil.server.plan import Plan, Progress, participants
from fcil.server.replies import Emit, Gathered, Reply, groups
from fcil.server.request import Request
from fcil.server.traffic import Ledger, send
from fcil.threads import threads

__all__ = ["Exchange", "Request", "Watch", "ask", "checked", "deployed_arrays", "receive", "run", "step"]


class Exchange(Protocol):
    """Carries requests to clients and replies back: in this process, over Ray, over a network."""

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Yield replies in the order of their arrival; a client that fails is a `Failure`, never an exception."""

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Count the correct answers with the deployed arrays in the model, (places, groups) int64.

        The places are those of the census: a row for each site that evaluates on its own images, or a single one. The
        groups are the classes seen, in the order of arrival, or the tasks seen (`Config.answers_by_class`).
        """

    def scores(self, arrays: Arrays, images: np.ndarray) -> np.ndarray:
        """Scores of images that the server holds, (n, 3, h, w) -> (n, classes seen), with these arrays in the model."""

    def close(self) -> None:
        """End the processes that were started for the run."""


Watch = Callable[[Request, Sequence[ClientUpdate], State, bool], Mapping[str, Any]]
"""(request, good updates, the state after the merge, whether a task ends with it) -> an event for the records."""


def ask(plan: Plan, progress: Progress) -> Request:
    """Make the next request. A round asks a share of the clients, a report asks all; both only those with samples.

    Raises:
        MethodError: the state has a group under a name that is taken.
    """
    phase = plan.phases[progress.position]
    state = progress.state if phase.round > 1 else in_rows(plan.method.begin(progress.state, phase, plan.backbone))
    check_groups(plan.method, state, phase)
    clients = participants(plan, phase)
    counts = {client: plan.census.num_examples(phase.task.index, client) for client in clients}
    secure = plan.config.run.secure_sums
    cut = [clients] if secure else groups(clients) if plan.config.run.aggregate_on_worker else []
    grouped = tuple(map(tuple, cut))
    method = plan.method.acting(phase)
    return Request(phase, method, method.broadcast(state, phase), counts, state, method.local(phase), grouped, secure)


def checked(plan: Plan, request: Request, replies: Iterable[Reply], emit: Emit) -> Gathered:
    """Gather the replies to a request: those that are good, less those that the run's filter leaves out.

    Raises:
        RunError: a client's code raised an exception, unless `run.on_client_error` is "skip"; or too few updates for
            the filter.
    """
    gathered = gather(
        request.method, request.expected, request.broadcast, replies, emit, plan.config.run.on_client_error,
        check_claims=not plan.rehearsed,
    )  # fmt: skip
    return filtered(plan, request, gathered, emit)


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
        MethodError: the state has a group under a name that is taken.
    """
    needed = min(plan.config.run.min_clients, len(request.num_examples))
    if gathered.good < needed:
        raise RunError(
            f"{request.phase}: {gathered.good} of {len(request.num_examples)} clients sent a good update, but "
            f"run.min_clients = {needed}; see `refused` in metrics.jsonl, mend the cause and go on with `fcil resume`"
        )
    try:
        state = in_rows(_merged(plan, request, gathered))
    except MergeError as error:
        raise MergeError(f"{request.phase}: {error}") from error
    check_groups(plan.method, state, request.phase)
    for name, a in ungrouped(state).items():
        if not np.isfinite(a).all():
            raise RunError(
                f"{request.phase}: merging made {name} infinite or NaN, so this phase is not kept; a client sent "
                "values that are finite but far out of scale. Find it in metrics.jsonl and go on with `fcil resume`"
            )
    return replace(progress, position=progress.position + 1, state=state)


def deployed_arrays(plan: Plan, progress: Progress, phase: Phase) -> Arrays:
    """The arrays to evaluate after a phase, in the threads of the run: more of them could round otherwise."""
    with threads(plan.config.run.threads):
        return plan.method.deploy(progress.state, phase)


def _scored(plan: Plan, progress: Progress, phase: Phase, exchange: Exchange) -> Progress:
    """Let the deployed model score the images that the server holds, where its method has any."""
    method = plan.method.acting(phase)
    if (images := method.server_images(progress.state, phase)) is None:
        return progress
    scores = exchange.scores(deployed_arrays(plan, progress, phase), images)
    return replace(progress, state=in_rows(method.merge_scores(progress.state, phase, scores)))


def _evaluate(plan: Plan, progress: Progress, phase: Phase, exchange: Exchange, emit: Emit) -> Progress:
    """Evaluate after a task, or a round; only the former is a row of the matrix."""
    ends_task = plan.ends_task(phase.index)
    start = time.perf_counter()
    deployed = deployed_arrays(plan, progress, phase)
    deployed_at = time.perf_counter()
    answers = read_answers(plan, phase.task, np.asarray(exchange.evaluate(deployed, phase.task)))
    seconds = time.perf_counter() - deployed_at
    stored: dict[str, Any] = {}
    if ends_task:
        progress = with_storage(with_answers(progress, answers), phase.task)
        _, state, clients, largest = progress.storage[-1]
        stored = {"state_bytes": state, "client_bytes": clients, "client_bytes_max": largest}
    emit({
        "event": "task" if ends_task else "round", "phase": phase.index, "task": phase.task.index, "round": phase.round,
        **answers_event(plan, answers), "seconds": seconds, **stored,
        **({"notes": dict(notes)} if (notes := plan.method.notes(progress.state, phase)) else {}),
    })  # fmt: skip
    return progress.add(seconds_merging=deployed_at - start, seconds_evaluation=seconds)


def _counted(progress: Progress, gathered: Gathered) -> Progress:
    """The progress with what a phase's replies add to its totals."""
    all_good = [*gathered.updates, *gathered.left_out]
    metrics = [update.metrics for update in all_good]
    peaks = [m["peak_memory_bytes"] for m in metrics if "peak_memory_bytes" in m]
    progress = progress.add(
        upload_bytes=gathered.nbytes, refused=gathered.missing, images=sum(m.get("images", 0) for m in metrics)
    )
    sizes = {update.client: int(update.metrics["kept_bytes"]) for update in all_good if "kept_bytes" in update.metrics}
    sizes_by_client = {client: n for client, n in sorted({**progress.kept, **sizes}.items()) if n}
    progress = replace(progress, kept=sizes_by_client)
    progress = progress.add(filtered=len(gathered.left_out)) if gathered.left_out else progress
    for name in ("reused", "cached"):
        if amount := sum(m.get(name, 0) for m in metrics):
            progress = progress.add(**{name: amount})
    return progress.raise_to(peak_memory_bytes=max(peaks)) if peaks else progress


def _send(request: Request, ledger: Ledger, emit: Emit) -> tuple[Ledger, int]:
    """Count what the clients download for a request, and tell of its phase; returns the new ledger and the bytes."""
    phase, clients = request.phase, list(request.num_examples)
    # a group gets one copy, and counts as one holder of it
    receivers, receives = (
        (range(len(request.groups)), as_broadcast)
        if request.groups and not request.secure
        else (clients, request.local.receives)
    )
    ledger, down = send(ledger, request.broadcast, receivers, receives)
    emit({
        "event": "phase", "phase": phase.index, "kind": phase.kind, "task": phase.task.index, "round": phase.round,
        "clients": clients, "download_bytes": down,
    })  # fmt: skip
    return ledger, down


def step(
    plan: Plan,
    progress: Progress,
    exchange: Exchange,
    emit: Emit,
    watch: Watch | None = None,
    arrivals: Arrivals | None = None,
) -> Progress:
    """Take one phase: ask the clients, check and merge their replies, and evaluate where a task ends.

    With secure sums the evaluation is a step of its own, which a progress that is `unevaluated` asks for.

    Args:
        arrivals: of which clients secure sums may have been had before.

    Raises:
        RunError: a client's code raised an exception, unless `run.on_client_error` is "skip"; or as `receive`.
        MergeError: as `receive`.
    """
    if progress.unevaluated:
        phase = plan.phases[progress.position - 1]
        return _evaluate(plan, replace(progress, unevaluated=False), phase, exchange, emit)
    request = replace(ask(plan, progress), arrivals=arrivals or Arrivals())
    phase = request.phase
    ledger, down = _send(request, progress.ledger, emit)
    sent_at = time.perf_counter()
    replies = checked(plan, request, exchange(request), emit)
    updates = replies.updates
    replied_at = time.perf_counter()
    progress = receive(plan, replace(progress, ledger=ledger), request, replies)
    progress = _scored(plan, progress, phase, exchange)
    merged_at = time.perf_counter()
    emit({
        "event": "merged", "phase": phase.index, "task": phase.task.index, "round": phase.round,
        "updates": len(updates), "upload_bytes": replies.nbytes, "seconds_clients": replied_at - sent_at,
        "seconds_merge": merged_at - replied_at, "sha256": progress.sha256(),
    })  # fmt: skip
    progress = _counted(progress, replies).add(
        download_bytes=down, seconds_clients=replied_at - sent_at, seconds_merging=merged_at - replied_at
    )
    if watch is not None:
        emit(watch(request, sorted(updates, key=lambda u: u.client), progress.state, plan.ends_task(phase.index)))
    if not plan.evaluates(phase):
        return progress
    return replace(progress, unevaluated=True) if request.secure else _evaluate(plan, progress, phase, exchange, emit)


def run(
    plan: Plan,
    progress: Progress,
    exchange: Exchange,
    emit: Emit,
    save: Callable[[Progress], None],
    watch: Watch | None = None,
    arrivals: Arrivals | None = None,
) -> Progress:
    """Run all phases that are left; `save` is called after every step, `watch` after every merge.

    Args:
        arrivals: of which clients secure sums may have been had before; it has to outlive the process that runs.
    """
    while progress.position < len(plan.phases) or progress.unevaluated:
        start = time.perf_counter()
        progress = step(plan, progress, exchange, emit, watch, arrivals)
        progress = progress.add(seconds_total=time.perf_counter() - start)
        save(progress)
    return progress
