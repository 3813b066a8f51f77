"""Forecasts what a run will take (`fcil plan`): counts and traffic exactly, time and memory as measured here.

Only SNELLA's sparsities, 4 bytes a part, count as sent where the rehearsal's scores change them and the run's do not.
"""

import functools
import heapq
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fcil.data.progress import Step
from fcil.engine.dry_run import Costs, Rehearsal, between, kind_of_work
from fcil.engine.simulation import Session
from fcil.errors import ConfigError
from fcil.exchange.device import resolved
from fcil.method import Phase
from fcil.server.loop import run
from fcil.server.plan import Plan, initial_progress
from fcil.threads import cores
from fcil.words import counted

__all__ = ["Forecast", "PhaseForecast", "forecast", "spread"]


def _silent(text: str, share: float) -> None:
    """Take a message about the forecast, and tell nobody."""


@dataclass(frozen=True)
class PhaseForecast:
    """A phase forecast holds what one phase of a run will take."""

    phase: Phase
    clients: int
    """Number of clients that are asked."""
    steps: int
    """Training steps of all clients together."""
    upload_bytes: int
    download_bytes: int
    seconds: float
    """Seconds of the clients' work, spread over the workers."""


@dataclass(frozen=True)
class Forecast:
    """A forecast holds what a run will take, phase by phase and in all."""

    plan: Plan
    phases: tuple[PhaseForecast, ...]
    workers: int
    device: str
    """Device on which time and memory were measured, with precision and threads."""
    seconds: Mapping[str, float]
    """Seconds by activity: startup, clients, server, evaluation; total is their sum."""
    backbone_bytes: int
    worker_bytes: int
    """The most memory of a worker, in bytes; 0 where that cannot be measured."""
    server_bytes: int
    """The most bytes that the state and the replies of one phase take."""
    image_bytes: int = 0
    """Bytes of all decoded images, which lie on disk where the data set has a cache."""

    def total(self, what: str) -> int:
        """Sum over all phases of `steps`, `upload_bytes` or `download_bytes`."""
        return sum(int(getattr(phase, what)) for phase in self.phases)

    def figures(self) -> dict[str, Any]:
        """The forecast under the names of a run's summary, where it has them."""
        sums = {what: self.total(what) for what in ("steps", "upload_bytes", "download_bytes")}
        memory = {"peak_memory_bytes": self.worker_bytes, "server_bytes": self.server_bytes}
        memory["image_bytes"] = self.image_bytes
        return {**sums, **memory, "workers": self.workers, "seconds": dict(self.seconds)}


def steps_of(examples: int, epochs: int, batch: int) -> int:
    """Number of training steps of one client in one round."""
    return epochs * -(-examples // batch)


def spread(seconds: Iterable[float], workers: int) -> float:
    """Seconds until the last worker is done, when every idle worker takes the longest job that is left."""
    free = [0.0] * workers
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + job)
    return max(free)


def _workers(plan: Plan) -> int:
    """Number of clients that work at a time; on another cluster `run.workers`, or as many as would fit this machine."""
    run_settings = plan.config.run
    if run_settings.exchange == "inline":
        return 1
    from fcil.exchange.flower.ray_cluster import room_for_workers  # Ray takes seconds to import

    here = {"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}
    room = room_for_workers(here, run_settings.threads, run_settings.gpus_per_client)
    return run_settings.workers or max(1, min(room, plan.config.partition.clients))


@functools.cache  # of a comparison's rows the first one pays
def _process_seconds() -> float:
    """Seconds to start a worker's process, which imports torch and Flower."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fcil.exchange.flower.handlers"], capture_output=True, check=False)
    return time.perf_counter() - start


def _client_seconds(plan: Plan, rehearsal: Rehearsal, phase: Phase, examples: int) -> float:
    train = plan.config.train
    measured = rehearsal.costs.timed[kind_of_work(plan.method, phase)]
    training, report = between({position: (c.training, c.report) for position, c in measured.items()}, phase.index)
    trained = (
        train.epochs * training.of(examples, train.batch) if plan.method.acting(phase).local(phase).trains else 0.0
    )
    return trained + report.of(examples, 4 * train.batch)


def _phases(plan: Plan, rehearsal: Rehearsal, events: list[Mapping[str, Any]], workers: int) -> list[PhaseForecast]:
    requests = {event["phase"]: event for event in events if event["event"] == "phase"}
    merged = {event["phase"]: event for event in events if event["event"] == "merged"}
    out = []
    for phase in plan.phases:
        counts = [plan.census.num_examples(phase.task.index, c) for c in requests[phase.index]["clients"]]
        steps = [steps_of(n, plan.config.train.epochs, plan.config.train.batch) for n in counts]
        out.append(PhaseForecast(
            phase, len(counts), sum(steps) if plan.method.acting(phase).local(phase).trains else 0,
            merged[phase.index]["upload_bytes"], requests[phase.index]["download_bytes"],
            spread((_client_seconds(plan, rehearsal, phase, n) for n in counts), workers),
        ))  # fmt: skip
    return out


def _evaluation_seconds(plan: Plan, rehearsal: Rehearsal, workers: int) -> float:
    """Seconds of all evaluations, whose batches are dealt out to the workers."""
    size, total = plan.config.run.evaluation_batch, 0.0
    for task in rehearsal.evaluated:
        images = sum(plan.census.totals[: task.index + 1])
        cost = between(rehearsal.costs.evaluation, task.index)[0]
        total += cost.of(min(images, -(-images // (workers * size)) * size), size)
    return total


def forecast(session: Session, step: Step = _silent, costs: Costs | None = None) -> Forecast:
    """Rehearse the run of a session and add up what it will take.

    Args:
        step: told of every phase before it is rehearsed.
        costs: what was measured of a run that differs by its skew and its seed alone; what it lacks is added to it.

    Raises:
        ConfigError: a phase whose replies the server would refuse.
    """
    plan, events = replace(session.plan, rehearsed=True), list[Mapping[str, Any]]()

    def emit(event: Mapping[str, Any]) -> None:
        if event["event"] == "refused":
            raise ConfigError(f"task {event['task'] + 1}, round {event['round']}: would be refused: {event['reason']}")
        if event["event"] == "phase":
            place = "report" if event["kind"] == "report" else f"round {event['round']}"
            step(f"a few steps of task {event['task'] + 1}, {place}", event["phase"] / len(plan.phases))
        events.append(event)

    rehearsal = Rehearsal(session.worker, plan, costs or Costs())
    done = run(plan, initial_progress(plan), rehearsal, emit, lambda progress: None)
    workers = _workers(plan)
    phases = _phases(plan, rehearsal, events, workers)
    seconds = {
        "startup": rehearsal.startup + (0.0 if plan.config.run.exchange == "inline" else _process_seconds()),
        "clients": sum(phase.seconds for phase in phases),
        "server": max(0.0, done.totals["seconds_total"] - rehearsal.seconds),
        "evaluation": _evaluation_seconds(plan, rehearsal, workers),
    }
    model = session.worker.model
    return Forecast(
        plan, tuple(phases), workers,
        f"{model.device}, {resolved(plan.config).model.precision}, {counted(plan.config.run.threads, 'thread')}",
        {**seconds, "total": sum(seconds.values())},
        sum(w.nbytes for w in model.network.state_dict().values()),
        int(rehearsal.costs.worker_bytes), rehearsal.server_bytes,
        sum(part.nbytes for part in (session.worker.dataset.train, session.worker.dataset.test)),
    )  # fmt: skip
