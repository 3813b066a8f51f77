"""Fine-tune one expert (LoRA module and head) per task on W0 alone, keep it in a file, and merge experts."""

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
from fcil.bench.merging.setup import BenchSetup
from fcil.config import to_table
from fcil.errors import ConfigError, RunError
from fcil.exchange.device import local_device, resolved
from fcil.files import write_atomic
from fcil.method import REPORT, TRAIN, Method, Phase, Task
from fcil.method.averaging import FIXED, START
from fcil.method.state import HEAD, MODULE, PAST
from fcil.model.backbone import weights_sha256
from fcil.threads import threads

__all__ = [
    "TrainedExpert",
    "MergedModel",
    "check_merge",
    "check_trainer",
    "fine_tune",
    "load_or_train",
    "merge_experts",
]


@dataclass(frozen=True)
class TrainedExpert:
    """A LoRA module and head rows fine-tuned on one task."""

    task: Task
    module: Arrays
    """The LoRA pair of every adapted layer."""
    head: Arrays
    """The head rows of the task's classes."""


@dataclass(frozen=True)
class MergedModel:
    """The arrays of a merged model, and the time of the merge."""

    arrays: Arrays
    seconds: float
    """Seconds that the server took for merging, without the clients' reports."""


def _begin(method: Method, phase: Phase, setup: BenchSetup) -> State:
    backbone, classes = setup.plan.backbone, len(setup.plan.census.classes)
    return method.begin(method.init(backbone, classes, phase.seed), phase, backbone)


def fine_tune(setup: BenchSetup, task: Task) -> TrainedExpert:
    """Train a task's module and head rows on W0 alone, in the rounds of the method in [method].

    Raises:
        RunError: training diverged.
    """
    method = setup.plan.method
    phases = [phase for phase in setup.phases(method, task.index) if phase.kind == TRAIN]
    state = _begin(method, phases[0], setup)
    for phase in phases:
        acting = method.acting(phase)
        state = acting.merge(state, phase, [setup.update(method, phase, acting.broadcast(state, phase))])
    bad = [name for name, a in ungrouped(state).items() if not np.isfinite(a).all()]
    if bad:
        raise RunError(f"the expert of task {task.index + 1} diverged ({bad[0]} is not finite); lower train.lr")
    return TrainedExpert(task, state[MODULE], state[HEAD])


def _identity(setup: BenchSetup, task: Task) -> str:
    """Write all that an expert's numbers depend on as JSON."""
    config, worker = resolved(setup.config), setup.session.worker
    table = to_table(config)
    return json.dumps({
        **{section: table[section] for section in ("tasks", "train", "method")}, "task": task.index,
        "model": {key: table["model"][key] for key in ("backbone", "image_size", "precision")},
        "run": {key: table["run"][key] for key in ("seed", "threads")}, "device": local_device(config.run.device).type,
        "fit": hashlib.sha256(setup.train_indices[task.index].astype("<i8").tobytes()).hexdigest(),
        "data": worker.dataset.sha256(), "weights": weights_sha256(config.model),
    }, sort_keys=True)  # fmt: skip


def _read(path: Path, task: Task, identity: str) -> TrainedExpert | None:
    """Read an expert from a file; None where it is missing, damaged or of other settings."""
    try:
        with safe_open(path, "numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError):
        return None
    if meta.get("settings") != identity or meta.get("sha256") != digest(arrays):
        return None
    state = grouped(arrays)
    return TrainedExpert(task, state[MODULE], state[HEAD])


def load_or_train(setup: BenchSetup, task: Task, folder: Path) -> tuple[TrainedExpert, bool]:
    """Load a task's expert from `folder`, or train and save it, named by a digest of all that it depends on.

    Returns:
        The expert, and whether it was trained now.

    Raises:
        RunError: as `fine_tune`.
    """
    identity = _identity(setup, task)
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    saved = _read(path, task, identity)
    if saved is not None:
        return saved, False
    expert = fine_tune(setup, task)
    arrays = {
        name: np.ascontiguousarray(a) for name, a in ungrouped({MODULE: expert.module, HEAD: expert.head}).items()
    }
    write_atomic(path, save(arrays, {"settings": identity, "sha256": digest(arrays)}))
    return expert, True


def check_trainer(setup: BenchSetup) -> None:
    """Check that the method of [method] trains a module from zero and head rows task by task; raises ConfigError."""
    method = setup.plan.method
    first = setup.plan.phases[0]
    if groups := {START, FIXED} & _begin(method, first, setup).keys():
        raise ConfigError(
            f"method.adapter: a module that does not begin at zero, or has fixed arrays ({', '.join(sorted(groups))}), "
            'is of no use here, where experts are kept by themselves; choose another adapter, "lora" or "full"'
        )
    if method.stream == "at_once" or first.kind != TRAIN or not {MODULE, HEAD} <= _begin(method, first, setup).keys():
        raise ConfigError(
            f"method.name = {setup.config.method.name!r}: experts are fine-tuned by it, and it trains no LoRA pair for "
            "each task; name a method that does (fcil methods)"
        )


def check_merge(setup: BenchSetup, method: Method, text: str) -> None:
    """Check that a method keeps a module per task, and one like the experts'; raises ConfigError."""
    state: State = method.init(setup.plan.backbone, len(setup.plan.census.classes), setup.config.run.seed)
    for task in setup.plan.census.tasks[:2]:
        state = method.begin(state, setup.phases(method, task.index)[0], setup.plan.backbone)
    classifier = state.keys() - {PAST, MODULE, HEAD}
    if classifier:
        raise ConfigError(
            f"bench.methods: {text!r} has a classifier of its own ({', '.join(sorted(classifier))}), so it cannot be "
            "judged under the experts' heads; leave it out"
        )
    if not state.get(PAST) or not {MODULE, HEAD} <= state.keys():
        raise ConfigError(
            f"bench.methods: {text!r} keeps no LoRA pair per task, so it has nothing to merge over tasks; leave it out "
            '(of a method with the setting `at`, that must be "task" or "both")'
        )
    trained = _begin(setup.plan.method, setup.plan.phases[0], setup)[MODULE]
    if state[MODULE].keys() != trained.keys():
        raise ConfigError(
            f"bench.methods: {text!r} merges {_some(state[MODULE])}, but experts have {_some(trained)}: these "
            "are not of one adapter; leave `adapter` to [method], or leave it out"
        )


def _some(arrays: Arrays) -> str:
    return ", ".join([*list(arrays)[:2], *(["..."] if len(arrays) > 2 else [])]) or "nothing"


def merge_experts(setup: BenchSetup, method: Method, experts: Sequence[TrainedExpert]) -> MergedModel:
    """Merge experts by a method: they replace its training rounds, and its reports are taken where it asks for them."""
    state: State = method.init(setup.plan.backbone, len(setup.plan.census.classes), setup.config.run.seed)
    for expert in experts:
        phases = setup.phases(method, expert.task.index)
        state = method.begin(state, phases[0], setup.plan.backbone)
        state = {**state, MODULE: expert.module, HEAD: {**state[HEAD], **expert.head}}
        for phase in phases:
            if phase.kind == REPORT:
                acting = method.acting(phase)
                update = setup.report(method, phase, acting.broadcast(state, phase))
                state = acting.merge(state, phase, [update])
    start = time.perf_counter()
    with threads(setup.config.run.threads):
        arrays = method.deploy(state, phases[-1])
    return MergedModel(arrays, time.perf_counter() - start)
