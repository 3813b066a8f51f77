"""EMR-Merging: elect one change for all tasks, with a mask for each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from fcil.errors import ConfigError
from fcil.merging.emr import elect, rescalers, restored
from fcil.merging.expert import Expert, check_compatible, relative_weights
from fcil.method import SCORES, Arrays, Model, Modules, Phase, State, head
from fcil.model.lora import DELTA, Lora
from fcil.model.weight_adapter import WeightAdapter
from fcil.options import Option

from ._merging import Draw, MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Emr"]

MASKS, RESCALERS, TASKS = ".masks", SCORES + "rescalers", SCORES + "tasks"


class _MaskedLora(Lora):
    """LoRA with room for every task's masks beside a layer's change; the layers themselves do not read them."""

    @property
    def slots(self) -> Mapping[str, str]:
        """Name LoRA's arrays, and the masks."""
        return {**super().slots, MASKS: "masks"}


@dataclass(frozen=True, kw_only=True)
class Emr(MergeMethod):
    """Elect one change for all tasks, with a mask for each task.

    Huang et al., "EMR-Merging: tuning-free high-performance model merging", NeurIPS 2024, arXiv 2405.17461. The paper
    is told the task of every test sample, which class-incremental learning is not. Without the router the elected
    change is the merged model. With it every sample goes through every task's model, lambda_t M_t tau, and the class of
    largest probability among its own task's classes wins: T forward passes, and no data or upload beside the changes.
    Probabilities are fair between tasks of as many classes; the fewer a task has, the surer its model looks.
    Literal transcription: `tests/reference_spectral.py`, `emr`.
    """

    router: Annotated[bool, Option("samples go through all tasks' models, and the surest of them decides")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.router and type(super().adapter) is not Lora:
            raise ConfigError(
                f"router = true: masks stand beside plain LoRA pairs, not with adapter = {self.adapter_text!r}"
            )
        if self.router and self.at == "round":
            raise ConfigError('router = true: a router chooses among tasks, so at must be "task" or "both"')

    @property
    def adapter(self) -> WeightAdapter | None:
        """The adapter, and masks where samples are routed."""
        plain = super().adapter
        return _MaskedLora(self.rank, plain.targets) if self.router and isinstance(plain, Lora) else plain

    @property
    def needs_only_changes(self) -> bool:
        """Tell whether there is no router, which has a forward pass of its own."""
        return not self.router

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Elect the change of every layer, dense; a client votes for signs by its examples."""
        votes = relative_weights(experts)
        for layer in check_compatible(experts):
            yield layer, elect([expert.changes[layer] for expert in experts], votes).change

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """Deploy the elected change; with the router the tasks' masks, (T, bytes), rescalers, (T,), and numbers too."""
        experts = self.task_experts(state)
        if not self.router or not experts:
            return super().deploy(state, phase)
        arrays: dict[str, np.ndarray] = dict(Modules.of(state).head)
        task_l1 = masked_l1 = np.zeros(len(experts))
        for layer in check_compatible(experts):
            elected = elect([expert.changes[layer] for expert in experts])
            arrays |= {layer + DELTA: elected.change.astype(np.float32), layer + MASKS: elected.masks}
            task_l1, masked_l1 = task_l1 + elected.task_l1, masked_l1 + elected.masked_l1
        tasks = np.array(head.tasks_of(Modules.of(state).head), np.float32)
        return {**arrays, RESCALERS: rescalers(task_l1, masked_l1).astype(np.float32), TASKS: tasks}

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """Class scores, (n, classes seen): with the router probabilities within a task, by that task's model."""
        import torch

        if RESCALERS not in model.arrays:
            return super().scores(model, images)
        routed, arrays = [], {name: a.cpu().numpy() for name, a in model.arrays.items()}
        places = {int(task): place for place, task in enumerate(arrays[TASKS])}
        for task in head.tasks_of(arrays):
            with model.using(_of_place(arrays, places.get(task))):
                routed.append(model.logits(model.features(images), [task]).softmax(1))
        return torch.cat(routed, 1)


def _of_place(arrays: Arrays, place: int | None) -> dict[str, np.ndarray]:
    """The model of one of the merged tasks, by its place among them; of a task that is not, the elected change."""
    result = {name: a for name, a in arrays.items() if not name.endswith(MASKS) and not name.startswith(SCORES)}
    if place is None:
        return result
    for name in (name for name in arrays if name.endswith(MASKS)):
        change = name.removesuffix(MASKS) + DELTA
        result[change] = restored(arrays[change], arrays[name][place], float(arrays[RESCALERS][place]))
    return result
