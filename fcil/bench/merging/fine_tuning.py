"""Experts: one module and head per task, fine-tuned on W0 alone, kept in files; and how a merge is given them."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fcil.arrays import Arrays, State, digest, grouped, ungrouped
from fcil.bench.merging.setup import Stage
from fcil.config import to_table
from fcil.engine.records import write_atomic
from fcil.errors import ConfigError, RunError
from fcil.exchange.device import local_device, resolved
from fcil.method import REPORT, TRAIN, Method, Phase, Task
from fcil.method.state import HEAD, MODULE, PAST
from fcil.model.backbone import weights_sha256
from fcil.threads import threads

__all__ = ["Deployed", "Tuned", "check_merge", "check_trainer", "deploy", "expert", "fine_tune"]


@dataclass(frozen=True)
class Tuned:
    """A model fine-tuned on one task."""

    task: Task
    module: Arrays
    """The pair of every layer."""
    head: Arrays
    """The rows of the task's classes."""


@dataclass(frozen=True)
class Deployed:
    """A merged model."""

    arrays: Arrays
    seconds: float
    """That the server took for merging, reports left out."""


def _begun(method: Method, phase: Phase, stage: Stage) -> State:
    backbone, classes = stage.plan.backbone, len(stage.plan.scenario.order)
    return method.begin(method.init(backbone, classes, phase.seed), phase, backbone)


def fine_tune(stage: Stage, task: Task) -> Tuned:
    """Train a task's module and head rows on W0 alone, in the rounds that the method takes.

    Raises:
        RunError: training diverged.
    """
    method = stage.plan.method
    phases = [phase for phase in stage.phases(method, task.index) if phase.kind == TRAIN]
    state = _begun(method, phases[0], stage)
    for phase in phases:
        acting = method.acting(phase)
        state = acting.merge(state, phase, [stage.update(method, phase, acting.broadcast(state, phase))])
    bad = [name for name, a in ungrouped(state).items() if not np.isfinite(a).all()]
    if bad:
        raise RunError(f"the expert of task {task.index + 1} diverged ({bad[0]} is not finite); lower train.lr")
    return Tuned(task, state[MODULE], state[HEAD])


def _identity(stage: Stage, task: Task) -> str:
    """All that an expert's numbers depend on, as JSON."""
    config, worker = resolved(stage.config), stage.session.worker
    table = to_table(config)
    return json.dumps({
        **{section: table[section] for section in ("tasks", "train", "method")}, "task": task.index,
        "model": {key: table["model"][key] for key in ("backbone", "image_size", "precision")},
        "run": {key: table["run"][key] for key in ("seed", "threads")}, "device": local_device(config.run.device).type,
        "fit": hashlib.sha256(stage.fit[task.index].astype("<i8").tobytes()).hexdigest(),
        "data": worker.dataset.sha256(), "weights": weights_sha256(config.model),
    }, sort_keys=True)  # fmt: skip


def _read(path: Path, task: Task, identity: str) -> Tuned | None:
    """The expert in a file; None where it is missing, damaged or of other settings."""
    try:
        with safe_open(path, "numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError):
        return None
    if meta.get("settings") != identity or meta.get("sha256") != digest(arrays):
        return None
    state = grouped(arrays)
    return Tuned(task, state[MODULE], state[HEAD])


def expert(stage: Stage, task: Task, folder: Path) -> tuple[Tuned, bool]:
    """A task's expert, and whether it was trained now; kept in `folder` under a digest of all it depends on.

    Raises:
        RunError: as `fine_tune`.
    """
    identity = _identity(stage, task)
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    known = _read(path, task, identity)
    if known is not None:
        return known, False
    made = fine_tune(stage, task)
    arrays = {name: np.ascontiguousarray(a) for name, a in ungrouped({MODULE: made.module, HEAD: made.head}).items()}
    write_atomic(path, save(arrays, {"settings": identity, "sha256": digest(arrays)}))
    return made, True


def check_trainer(stage: Stage) -> None:
    """Whether the method of [method] trains a LoRA pair and head rows task by task; raises ConfigError."""
    method = stage.plan.method
    first = stage.plan.phases[0]
    if method.stream == "at_once" or first.kind != TRAIN or not {MODULE, HEAD} <= _begun(method, first, stage).keys():
        raise ConfigError(
            f"method.name = {stage.config.method.name!r}: experts are fine-tuned by it, and it trains no LoRA pair for "
            "each task; name a method that does (fcil methods)"
        )


def check_merge(stage: Stage, method: Method, text: str) -> None:
    """Whether a method keeps a module per task, without which it has nothing to merge; raises ConfigError."""
    state: State = method.init(stage.plan.backbone, len(stage.plan.scenario.order), stage.config.run.seed)
    for task in stage.plan.scenario.tasks[:2]:
        state = method.begin(state, stage.phases(method, task.index)[0], stage.plan.backbone)
    own_head = state.keys() - {PAST, MODULE, HEAD}
    if own_head:
        raise ConfigError(
            f"bench.methods: {text!r} has a classifier of its own ({', '.join(sorted(own_head))}), so it cannot be "
            "judged under the experts' heads; leave it out"
        )
    if not state.get(PAST) or not {MODULE, HEAD} <= state.keys():
        raise ConfigError(
            f"bench.methods: {text!r} keeps no LoRA pair per task, so it has nothing to merge over tasks; leave it out "
            '(of a method with the setting `at`, that must be "task" or "both")'
        )


def deploy(stage: Stage, method: Method, experts: Sequence[Tuned]) -> Deployed:
    """Walk through a method's tasks with finished experts in the place of its rounds; report where it asks for it."""
    state: State = method.init(stage.plan.backbone, len(stage.plan.scenario.order), stage.config.run.seed)
    for each in experts:
        phases = stage.phases(method, each.task.index)
        state = method.begin(state, phases[0], stage.plan.backbone)
        state = {**state, MODULE: each.module, HEAD: {**state[HEAD], **each.head}}
        for phase in phases:
            if phase.kind == REPORT:
                acting = method.acting(phase)
                update = stage.report(method, phase, acting.broadcast(state, phase))
                state = acting.merge(state, phase, [update])
    began = time.perf_counter()
    with threads(stage.config.run.threads):
        arrays = method.deploy(state, phases[-1])
    return Deployed(arrays, time.perf_counter() - began)
