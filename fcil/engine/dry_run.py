"""Rehearses a run: the loop walks through all phases, and in each one client does a few steps of training.

The replies of the others are imitated from that client's, so the server's half, the checks and the account of traffic
are those of the run itself. On the way the rehearsal takes the time of steps, passes and evaluation, early and late in
the run, since what a method sends and evaluates may grow with the tasks.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from fcil.arrays import Arrays, nbytes, ungrouped
from fcil.client.data import ClientData
from fcil.client.settings import Train
from fcil.client.training import run_client
from fcil.exchange.device import PeakMemory
from fcil.exchange.secure import masked_bytes
from fcil.exchange.worker import Worker
from fcil.method import ClientUpdate, Method, Phase, Task, head
from fcil.server.evaluation import groups
from fcil.server.loop import Request
from fcil.server.plan import Plan
from fcil.server.replies import Reply, summed
from fcil.server.traffic import update_bytes
from fcil.threads import threads

__all__ = ["Cost", "Costs", "Rehearsal", "Timed", "between", "kind_of_work"]

PROBE = 2
"""Steps in each phase: in the first a LoRA pair's B leaves zero, and only then does A begin to move."""
STEPS, REPEATS = 4, 3
"""Steps of a whole batch that are timed, and how often; the median counts."""
PATIENCE = 1.0
"""Seconds after which steps are not repeated: long ones vary little."""
BATCHES = 4
"""About so many batches of an evaluation are timed."""


class Cost(NamedTuple):
    """The seconds that a batch takes: a fixed part, and a part for each image."""

    batch: float
    image: float

    def of(self, images: int, size: int) -> float:
        """Seconds of one pass over `images` in batches of `size`."""
        return -(-images // size) * self.batch + images * self.image

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> "Cost":
        """The cost through two measurements (images in the batch, seconds); neither part is negative."""
        if many[0] <= few[0]:
            return cls(many[1], 0.0)
        image = min(max(0.0, (many[1] - few[1]) / (many[0] - few[0])), many[1] / many[0])
        return cls(many[1] - image * many[0], image)


class Timed(NamedTuple):
    """The measured costs of a client's work in one phase."""

    training: Cost
    report: Cost


@dataclass
class Costs:
    """What was measured of a run's work: it holds for every run that differs by its skew and its seed alone."""

    timed: dict[tuple[object, ...], dict[int, Timed]] = field(default_factory=dict)
    """Kind of work -> position of the phase -> costs of its training and its report."""
    evaluation: dict[int, Sequence[Cost]] = field(default_factory=dict)
    """Task -> cost of its evaluation, for the first and the last task."""
    worker_bytes: float = 0.0
    """The most memory in use while work was timed, in bytes; 0 where that is not known."""


def between(measured: Mapping[int, Sequence[Cost]], at: int) -> list[Cost]:
    """Interpolate costs at a position, on the line through the first and the last measured ones."""
    first, last = min(measured), max(measured)
    share = (at - first) / (last - first) if last > first else 0.0
    return [
        Cost(*((1 - share) * a + share * b for a, b in zip(early, late, strict=True)))
        for early, late in zip(measured[first], measured[last], strict=True)
    ]


def kind_of_work(method: Method, phase: Phase) -> tuple[object, ...]:
    """A key that is equal for phases which cost the same, except for what grows with the tasks."""
    local = method.acting(phase).local(phase)
    patterns = tuple(head.without_task(pattern, phase.task.index) for pattern in local.trains)
    passes = [
        (*map(type, a_pass.statistics), a_pass.samples is None, len(a_pass.extra_models)) for a_pass in local.passes
    ]
    return phase.kind, patterns, *passes


@dataclass
class Rehearsal:
    """An exchange for `fcil.server.loop.run` that imitates replies and measures what the run will cost."""

    worker: Worker
    plan: Plan
    costs: Costs = field(default_factory=Costs)
    """What is measured on the way; what an earlier rehearsal has measured is not measured again."""
    evaluated: list[Task] = field(default_factory=list)
    """The task of every evaluation, in order."""
    server_bytes: int = 0
    """The most bytes that the state and the replies of one phase take."""
    seconds: float = 0.0
    """Seconds spent on clients' work here: the rest of a rehearsal is the server's work."""
    startup: float = 0.0
    """Seconds to load the backbone and to do the first steps of all."""
    _stores: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    _to_time: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        ends: dict[tuple[object, ...], list[int]] = {}
        for phase in self.plan.phases:
            ends.setdefault(kind_of_work(self.plan.method, phase), []).append(phase.index)
        self._to_time = {position for positions in ends.values() for position in (positions[0], positions[-1])}

    # ---- the exchange ------------------------------------------------------------------------------------------------

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Yield one client's reply to a few steps, in as many variations as clients are asked."""
        start = time.perf_counter()
        reply = self._probe(request)
        initial = request.local.receives(request.broadcast.arrays, reply.client)
        self.startup = self.startup or time.perf_counter() - start
        kind = kind_of_work(self.plan.method, request.phase)
        if request.phase.index in self._to_time and request.phase.index not in self.costs.timed.get(kind, {}):
            self.costs.timed.setdefault(kind, {})[request.phase.index] = self._time(request)
        needed = nbytes(ungrouped(request.state)) + len(request.num_examples) * update_bytes(reply)
        self.server_bytes = max(self.server_bytes, needed)
        self.seconds += time.perf_counter() - start
        for group in request.groups or [(client,) for client in request.num_examples]:
            start = time.perf_counter()
            copies = (replace(reply, client=c, num_examples=request.num_examples[c]) for c in group)
            replies = [_varied(request, one, initial) for one in copies]
            imitated: Reply = replies[0]
            if request.groups:
                sums = summed(request.method, request.expected, request.broadcast, replies, check_claims=False)
                imitated = replace(sums, masked_bytes=masked_bytes(sums.sums, len(group))) if request.secure else sums
            self.seconds += time.perf_counter() - start
            yield imitated

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Time the first and the last task's evaluation on some batches; returns zeros in place of correct answers."""
        start = time.perf_counter()
        self.evaluated.append(task)
        tasks = self.plan.census.tasks
        if task.index in (tasks[0].index, tasks[-1].index) and task.index not in self.costs.evaluation:
            sizes = self.worker.batch_sizes(task)
            shards = max(1, len(sizes) // BATCHES)
            images = sum(sizes[::shards])
            memory = PeakMemory(self.worker.model.device)
            self.worker.evaluate(arrays, task, 0, len(sizes))  # one batch to warm up
            timed_from = time.perf_counter()
            self.worker.evaluate(arrays, task, 0, shards)
            self.costs.evaluation[task.index] = (Cost(0.0, (time.perf_counter() - timed_from) / images),)
            self._note(memory)
        self.seconds += time.perf_counter() - start
        return np.zeros((1, groups(self.plan, task)), np.int64)

    def scores(self, arrays: Arrays, images: np.ndarray) -> np.ndarray:
        """Score the server's images, which counts as the server's work."""
        return self.worker.scores(arrays, images)

    def close(self) -> None:
        """Do nothing: a rehearsal has started no process."""

    # ---- work and time -----------------------------------------------------------------------------------------------

    def _probe(self, request: Request) -> ClientUpdate:
        """Work for a client that holds an image of every class: its reply has the form of all others' replies."""
        train, task = self.plan.config.train, request.phase.task.index
        most = max(request.num_examples, key=lambda client: request.num_examples[client])
        steps = min(PROBE, train.epochs * -(-request.num_examples[most] // train.batch))
        samples = np.concatenate(self.worker.scenario.parts[task])
        _, first = np.unique(self.worker.dataset.train.labels[samples], return_index=True)
        chosen = np.resize(samples[first], max(len(first), steps))
        return self._work(request, chosen, -(-len(chosen) // steps), most)

    def _work(self, request: Request, indices: np.ndarray, batch: int, client: int) -> ClientUpdate:
        model, config = self.worker.model, self.plan.config
        scenario = self.worker.scenario
        task = request.phase.task.index
        others = [part for parts in scenario.parts[: task + 1] for part in parts]
        unlabelled = [scenario.unlabelled_of(task, holder) for holder in range(len(scenario.parts[task]))]
        data = ClientData(  # the samples are anybody's, and so are those that a store has kept of earlier phases
            self.worker.dataset, indices, scenario.positions, config.model.image_size, model.device, tuple(others),
            np.concatenate(unlabelled),
        )  # fmt: skip
        train: Train = replace(config.train, epochs=1, batch=batch)
        store = self._stores.setdefault(client, {})
        with threads(config.run.threads):
            return run_client(self.plan.method, model, data, train, request.phase, request.broadcast, client, store)

    def _time(self, request: Request) -> Timed:
        """Time steps of one image and of a whole batch, and the passes for statistics after them."""
        batch = self.plan.config.train.batch
        task = np.concatenate(self.worker.scenario.parts[request.phase.task.index])
        memory = PeakMemory(self.worker.model.device)
        few, many = (self._median(request, np.resize(task, STEPS * size), size) for size in (1, batch))
        self._note(memory)
        return Timed(
            Cost.through((1, few[0] / STEPS), (batch, many[0] / STEPS)),
            Cost.through((STEPS, few[1]), (STEPS * batch, many[1])),
        )

    def _median(self, request: Request, indices: np.ndarray, batch: int) -> tuple[float, float]:
        """Median seconds of training and of statistics on these samples, as the client records them."""
        start = time.perf_counter()
        timings: list[tuple[float, float]] = []
        while len(timings) < REPEATS and (not timings or time.perf_counter() - start < PATIENCE):
            metrics = self._work(request, indices, batch, -1).metrics
            timings.append((metrics["train_seconds"], metrics["report_seconds"]))
        train, report = (statistics.median(column) for column in zip(*timings, strict=True))
        return train, report

    def _note(self, memory: PeakMemory) -> None:
        peak = memory.metrics().get("peak_memory_bytes", 0.0)
        self.costs.worker_bytes = max(self.costs.worker_bytes, peak)


def _varied(request: Request, reply: ClientUpdate, initial: Arrays) -> ClientUpdate:
    """Vary a reply: every change becomes a little larger or smaller; what did not move stays in place.

    Args:
        initial: the arrays with which the client of the reply began.
    """
    rng = request.phase.generator("rehearsal", reply.client)
    sent = request.local.receives(request.broadcast.arrays, reply.client)
    arrays = {}
    for name, a in reply.arrays.items():
        change = np.resize(a - initial[name], sent[name].shape)  # of another shape where clients' pairs are smaller
        arrays[name] = (sent[name] + change * rng.uniform(0.9, 1.1, change.shape)).astype(a.dtype)
    return replace(reply, arrays=arrays)
