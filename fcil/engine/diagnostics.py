"""Data-free diagnostics of weight changes, of every round and task with `run.diagnostics`; they change no result.

Whatever a method does, only what its arrays change of layers' weights is looked at: by LoRA pairs, kernels, or dense:

    round  every client's change from the broadcast: kinship between clients, singular values
    task   what the task changed in the broadcast model: kinship between tasks; and the deployed change: its intruder
           dimensions against W0

An event `diagnostics` in metrics.jsonl holds kinship and intruders. The folder diagnostics/ holds phase<n>.safetensors,
singular values by client and layer, and task<t>.safetensors, a task's change in factors. Cost: a client's change takes
two thin QRs a layer, a pair of clients r^2 (out + in) multiplications; a task's end takes an eigendecomposition of W0 +
change a layer, the first one an SVD of W0. The backbone and its left singular vectors are held beside the run.
"""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from fcil.arrays import Arrays, State, as_float32
from fcil.files import left_aside, write_atomic
from fcil.merging.lowrank import Change, LowRank, balanced, dense, product_svd
from fcil.merging.similarity import EPSILON, TOP, intruders, kinships, left_vectors
from fcil.method import Adapter, ClientUpdate, Phase
from fcil.method.state import TRAINED
from fcil.model.backbone import load_backbone
from fcil.model.lora import A, B, Lora, changes_of
from fcil.model.weight_adapter import DELTA, WeightAdapter, sides_of
from fcil.server.loop import Request
from fcil.server.plan import Plan
from fcil.threads import threads

__all__ = ["DIAGNOSTICS", "Diagnostics", "changes_in"]

DIAGNOSTICS = "diagnostics"


def changes_in(arrays: Arrays, adapter: Adapter | None = None) -> Mapping[str, Change]:
    """The change of the weight of every layer that an adapter changes, by layer; by default a LoRA pair's, or dense."""
    if isinstance(adapter, WeightAdapter) and not isinstance(adapter, Lora):
        return adapter.changes(arrays)
    changes: dict[str, Change] = {**changes_of(arrays)}
    for name in (n for n in arrays if n.endswith(DELTA)):
        layer = name.removesuffix(DELTA)
        changes[layer] = arrays[name] + dense(changes[layer]) if layer in changes else arrays[name]
    return changes


def _of_layers(arrays: Arrays) -> dict[str, np.ndarray]:
    """Select the arrays that `changes_in` looks at."""
    layers = set(sides_of(arrays))
    return {name: a for name, a in arrays.items() if name.rpartition(".")[0] in layers}


def _between(after: Arrays, before: Arrays, adapter: Adapter | None) -> dict[str, LowRank]:
    """Change of every layer between two sets of arrays, in balanced factors: s^1/2 is the norm of their columns."""
    start = changes_in(before, adapter)
    whole = {n: _minus(c, start[n]) if n in start else c for n, c in changes_in(after, adapter).items()}
    return {layer: balanced(*product_svd(change)) for layer, change in whole.items()}


def _minus(left: Change, right: Change) -> Change:
    if isinstance(left, LowRank) and isinstance(right, LowRank):
        return left.minus(right)
    return np.asarray(dense(left) - dense(right))


def _spectrum(change: LowRank) -> np.ndarray:
    """The singular values of balanced factors, float32."""
    return np.asarray(np.square(change.b).sum(0), np.float32)


class Diagnostics:
    """Diagnoses every phase and writes to `folder`; a phase that is run again writes the same again. A `loop.Watch`."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        folder.mkdir(exist_ok=True)
        for stale in filter(left_aside, folder.iterdir()):
            stale.unlink()

    def __call__(
        self, request: Request, updates: Sequence[ClientUpdate], state: State, ends_task: bool
    ) -> dict[str, Any]:
        """Diagnose one phase; returns its event."""
        start_time, phase = time.perf_counter(), request.phase
        event: dict[str, Any] = {
            "event": "diagnostics", "phase": phase.index, "task": phase.task.index, "round": phase.round
        }  # fmt: skip
        with threads(self.plan.config.run.threads):
            if phase.round == 1:
                self._write(f"task{phase.task.index + 1}-start", _of_layers(request.broadcast.arrays))
            if phase.kind == "train":
                event |= self._clients(request, updates)
            if ends_task:
                event |= self._tasks(phase, state) | self._intruders(self.plan.method.deploy(state, phase))
        return {**event, "seconds": time.perf_counter() - start_time}

    def _write(self, name: str, arrays: Arrays) -> None:
        content = {n: np.ascontiguousarray(a) for n, a in as_float32(arrays).items()}
        write_atomic(self.folder / f"{name}.safetensors", save(content))

    def _clients(self, request: Request, updates: Sequence[ClientUpdate]) -> dict[str, Any]:
        changes = []
        for update in updates:
            initial = request.local.receives(request.broadcast.arrays, update.client)
            changes.append(_between({**initial, **update.arrays}, initial, self.plan.method.adapter))
        values = {
            f"client{update.client}/{layer}": _spectrum(change)
            for update, by_layer in zip(updates, changes, strict=True)
            for layer, change in by_layer.items()
        }
        self._write(f"phase{request.phase.index:06d}", values)
        return {"clients": [u.client for u in updates], "client_kinship": kinships(changes).tolist() if values else []}

    def _tasks(self, phase: Phase, state: State) -> dict[str, Any]:
        """Keep the change of this task, and compare it with the kept changes of earlier tasks."""
        path = self.folder / f"task{phase.task.index + 1}-start.safetensors"
        if path.exists():  # not where diagnostics were switched on in the middle of a task
            sent = self.plan.method.acting(phase).broadcast(state, phase).arrays
            now = {**sent, **state.get(TRAINED, {})}  # not what a schedule has made of it for the next round
            changed = _between(_of_layers(now), load_file(path), self.plan.method.adapter)
            factors = {layer + A: change.a for layer, change in changed.items()}
            factors |= {layer + B: change.b for layer, change in changed.items()}
            self._write(f"task{phase.task.index + 1}", factors)
        paths = {t: self.folder / f"task{t + 1}.safetensors" for t in range(phase.task.index + 1)}
        changes_by_task = {t: changes_of(load_file(path)) for t, path in paths.items() if path.exists()}
        some = any(changes_by_task.values())
        return {
            "tasks": list(changes_by_task),
            "task_kinship": kinships(list(changes_by_task.values())).tolist() if some else [],
        }

    @cached_property
    def _weights(self) -> Mapping[str, np.ndarray]:
        network = load_backbone(self.plan.config.model)
        linears = self.plan.backbone.linears
        return {layer: network.get_parameter(f"{layer}.weight").float().numpy() for layer in linears}

    @cached_property
    def _directions(self) -> dict[str, np.ndarray]:
        """Left singular vectors of W0, float32, of the layers that have been diagnosed so far."""
        return {}

    def _intruders(self, deployed: Arrays) -> dict[str, Any]:
        out, adapter = {}, self.plan.method.adapter
        for layer, change in changes_in(deployed, adapter).items():
            if layer in self._weights:
                weight = self._weights[layer]
                if layer not in self._directions:
                    self._directions[layer] = left_vectors(weight).astype(np.float32)
                frozen = adapter.frozen(layer, weight, deployed) if isinstance(adapter, WeightAdapter) else weight
                out[layer] = intruders(frozen, change, self._directions[layer], EPSILON, TOP)
        return {"intruders": out}
