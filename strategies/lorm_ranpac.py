"""LoRM + RanPAC: a backbone adapted by federated LoRA, under a ridge head in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from fcil.arrays import Arrays, State
from fcil.errors import ConfigError
from fcil.merging.ridge import transport, transported
from fcil.method import (
    REPORT,
    Backbone,
    Broadcast,
    ClientUpdate,
    Kind,
    Local,
    Method,
    Pass,
    Phase,
    Statistic,
    Task,
)
from fcil.model.adapted import AdaptedModel
from fcil.model.lora import Lora
from fcil.options import Option
from fcil.statistics.features import CROSS, GRAM, HELD, OLD_GRAM, Drift, FeatureMap, FeatureSums, class_sums

from ._lora import Rank
from .fedavg import FedAvg
from .lorm import LoRM
from .ranpac import PROJECTION, RanPAC

__all__ = ["LoRMRanPAC"]

OWN = ("rows", "sums", "modules")
"""Groups of the state that the tuner does not know."""


def _after(task: int, arrays: Arrays) -> dict[str, np.ndarray]:
    """The backbone's modules at the end of a task, under the names by which they are kept and sent."""
    return {f"after_task{task}/{name}": a for name, a in arrays.items()}


def _modules(task: int, arrays: Arrays, references: Arrays) -> dict[str, np.ndarray]:
    """Undoes `_after`, of one task."""
    mark = f"after_task{task}/"
    return {name.removeprefix(mark): a for name, a in references.items() if name.startswith(mark)}


def _bare(arrays: Arrays, references: Arrays) -> Arrays:
    """The frozen backbone."""
    return {}


@dataclass(frozen=True, kw_only=True)
class LoRMRanPAC(RanPAC):
    """LoRA is trained and merged by LoRM (or FedAvg); the head is ridge regression on random features.

    Ours, after the first-session adaptation of RanPAC (arXiv 2307.02251) and STSA (arXiv 2506.01327). With `adapt` =
    first_task the backbone is frozen after the first task. With every_task it goes on changing, and the sums of earlier
    tasks are of features that are no longer there; `transport` carries them over in closed form, by the linear map from
    old to new features that fits best on the current task's data. With `size` = 0 the head is plain ridge regression,
    and the map is one between the backbone's own features: fewer numbers to fit than there are samples, as a rule.
    """

    adapt: Annotated[Literal["first_task", "every_task"], Option("tasks in which LoRA is trained")] = "first_task"
    concat: Annotated[bool, Option("the head sees frozen and adapted features side by side")] = False
    transport: Annotated[bool, Option('carry older sums to new features; needs adapt = "every_task"')] = False
    transport_mu: Annotated[
        float, Option("mu of the transport, in units of the mean square of an old feature; large moves less", above=0)
    ] = 1e-2
    base: Annotated[Literal["LoRM", "FedAvg"], Option("how LoRA modules are trained and merged")] = "LoRM"
    rank: Rank = 16

    @property
    def tuner(self) -> Method:
        """What adapts the backbone; a single task's module needs no merge over tasks, and no report for it."""
        if self.base == "FedAvg":
            return FedAvg(rank=self.rank)
        return LoRM(rank=self.rank, task_merge="gram" if self.adapt == "every_task" else "mean")

    @property
    def adapter(self) -> Lora:
        """A pair on qkv, proj, fc1 and fc2 of every block."""
        return Lora(self.rank)

    def last_tuned(self, task: int) -> int:
        """The task after which the backbone of `task` was ready."""
        return task if self.adapt == "every_task" else 0

    def is_tuners(self, phase: Phase) -> bool:
        """Whether a phase is the tuner's; the last one of a task is the head's."""
        return phase.left > 0

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """As the tuner says; in the last phase sums under the adapted backbone, beside the frozen and the old one."""
        if self.is_tuners(phase):
            return self.tuner.local(phase)
        task = phase.task.index
        drift = self.drift(phase)
        beside = ([_bare] if self.concat else []) + ([partial(_modules, task - 1)] if drift else [])
        statistics: tuple[Statistic, ...] = (self.statistic(phase), drift) if drift else (self.statistic(phase),)
        return Local(passes=(Pass(statistics, partial(_modules, self.last_tuned(task)), beside=tuple(beside)),))

    def statistic(self, phase: Phase) -> FeatureSums:
        """Of the adapted features, to the right of the frozen ones with `concat`."""
        drift = self.drift(phase)
        models = drift.models if drift else 1 + self.concat
        return replace(super().statistic(phase), models=models, chosen=(1, 0) if self.concat else (0,))

    def drift(self, phase: Phase) -> Drift | None:
        """The sums by which older ones are carried over, where there are any."""
        if not self.transport or phase.task.index == 0:
            return None
        new, old = ((1, 0), (1, 2)) if self.concat else ((0,), (1,))
        return Drift(phase.task, self.feature_map(phase.seed), max(old) + 1, new, old, self.wire)

    def scores(self, model: AdaptedModel, images: Tensor) -> Tensor:
        """The ridge head; within a task, where there is none yet, the tuner's."""
        if PROJECTION not in model.arrays:
            return self.tuner.scores(model, images)
        features = model.features(images)
        if self.concat:
            with model.using({}):
                features = torch.cat([model.features(images), features], 1)
        phi = FeatureMap(random=self.size).apply(features, model.arrays[PROJECTION])
        return model.logits(phi.float())

    # ---- server half -------------------------------------------------------------------------------------------------

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The tuner's in tasks in which it works, then one report for the head."""
        tuned = self.last_tuned(task.index) == task.index
        return (*(self.tuner.phases(task, rounds) if tuned else ()), REPORT)

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Raise ConfigError for a transport with nothing to carry, or a rank that does not fit."""
        if self.transport and self.adapt != "every_task":
            raise ConfigError('method.transport = true: features change only with method.adapt = "every_task"; set it')
        return self.tuner.init(backbone, classes, seed)

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """New arrays of the head, and of the tuner where it works."""
        state = super().begin(state, phase, backbone)
        tuned = self.last_tuned(phase.task.index) == phase.task.index
        return self.tuner.begin(state, phase, backbone) if tuned else state

    def _tuners(self, state: State) -> State:
        return {group: arrays for group, arrays in state.items() if group not in OWN}

    def _adapted(self, state: State, phase: Phase) -> dict[str, np.ndarray]:
        """The modules of the backbone that the tuner would deploy at the end of this task."""
        closing = replace(phase, kind=self.tuner.phases(phase.task, 1)[-1])
        deployed = self.tuner.deploy(self._tuners(state), closing)
        return {name: a for name, a in deployed.items() if not name.startswith("head.")}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The tuner's; in the last phase the backbone's modules, old ones of which clients hold already."""
        if self.is_tuners(phase):
            return self.tuner.broadcast(self._tuners(state), phase)
        return Broadcast(state["rows"], self._kept(state, phase))

    def _kept(self, state: State, phase: Phase) -> dict[str, np.ndarray]:
        """The modules under which this task's sums are taken, and with `transport` those of the task before."""
        task, older = phase.task.index, state.get("modules", {})
        if self.last_tuned(task) < task:
            return dict(older)
        before = _after(task - 1, _modules(task - 1, {}, older)) if self.transport else {}
        return {**before, **_after(task, self._adapted(state, phase))}

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The tuner's, or those of features, and of old and new ones together."""
        if self.is_tuners(phase):
            return self.tuner.sums(phase, broadcast, updates)
        drift = self.drift(phase)
        return {**super().sums(phase, broadcast, updates), **(drift.total(updates) if drift else {})}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The tuner's merge; in the last phase older sums are carried over, then this task's are added."""
        if self.is_tuners(phase):
            return {**state, **self.tuner.merge_sums(self._tuners(state), phase, sums)}
        state = {**state, "modules": self._kept(state, phase)}
        if self.drift(phase):
            carry = transport(sums[CROSS], sums[OLD_GRAM], self.transport_mu)
            state = {**state, "sums": self._carried(state["sums"], carry, phase.task.index)}
        own = {name: a for name, a in sums.items() if name not in (CROSS, OLD_GRAM)}
        return super().merge_sums(state, phase, own)

    def _carried(self, sums: Arrays, carry: np.ndarray, tasks: int) -> dict[str, np.ndarray]:
        """G and Q of the tasks before, as sums of features that have become T phi."""
        out = dict(sums)
        for prefix in ("", HELD) if HELD + GRAM in sums else ("",):
            names = [prefix + class_sums(task) for task in range(tasks)]
            each = [len(sums[name]) for name in names]
            gram, q = transported(carry, sums[prefix + GRAM], np.concatenate([sums[name] for name in names]))
            out |= {prefix + GRAM: gram, **dict(zip(names, np.split(q, np.cumsum(each)[:-1]), strict=True))}
        return out

    def input_width(self, state: State) -> int:
        """Length of z: twice the backbone's with `concat`."""
        return super().input_width(state) * (1 + self.concat)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The backbone's modules under the ridge head; within a task what the tuner deploys."""
        if self.is_tuners(phase):
            return self.tuner.deploy(self._tuners(state), phase)
        modules = _modules(self.last_tuned(phase.task.index), {}, state["modules"])
        return {**modules, **super().deploy(state, phase)}
