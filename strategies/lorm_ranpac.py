"""LoRM + RanPAC: adapt by LoRM, then solve a ridge head on the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.errors import ConfigError
from fcil.method import (
    REPORT,
    TOKENS,
    Averaging,
    Backbone,
    Broadcast,
    ClientUpdate,
    Kind,
    Local,
    Method,
    Model,
    Pass,
    Phase,
    Statistic,
    Task,
)  # fmt: skip
from fcil.model.lora import Lora
from fcil.options import Option
from fcil.statistics.drift import Drift
from fcil.statistics.features import FeatureSums

from ._closed_form import PROJECTION, ROWS, SUMS
from ._idle import refuse_idle
from ._lora import Rank
from ._parts import lora_method
from ._ridge import RidgeMethod
from ._ridge_settings import Sketch
from ._transport import split_drift, transported_sums
from .ranpac import RandomFeatures

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoRMRanPAC"]

MODULES = "modules"
"""The state's group of the backbone's modules at the end of tasks, after_task<t>/<name>."""


def _after(task: int, arrays: Arrays) -> dict[str, np.ndarray]:
    """Name the backbone's modules at the end of a task as they are kept and sent."""
    return {f"after_task{task}/{name}": a for name, a in arrays.items()}


def _bare(arrays: Arrays, references: Arrays) -> dict[str, np.ndarray]:
    """The frozen backbone without modules, beside the tokens of its features; a model of `Pass`."""
    return {name: a for name, a in arrays.items() if name == TOKENS}


def _modules(task: int, arrays: Arrays, references: Arrays) -> dict[str, np.ndarray]:
    """The modules that `_after` has named, of one task, beside the tokens; a model of `Pass`."""
    mark = f"after_task{task}/"
    modules = {name.removeprefix(mark): a for name, a in references.items() if name.startswith(mark)}
    return {**_bare(arrays, references), **modules}


@dataclass(frozen=True, kw_only=True)
class LoRMRanPAC(RidgeMethod):
    """Adapt by LoRM, then solve a ridge head on the features.

    LoRA is trained and merged by LoRM (or another method); the head is ridge regression on random features.
    Ours, after the first-session adaptation of RanPAC (arXiv 2307.02251) and STSA (arXiv 2506.01327). With `adapt` =
    first_task the backbone is frozen after the first task. With every_task it goes on changing, and the sums of earlier
    tasks are of features that are no longer there; `transport` carries them over in closed form, by the linear map from
    old to new features that fits best on the current task's data. With `random` = 0 the head is plain ridge regression,
    and the map is one between the backbone's own features: fewer numbers to fit than there are samples, as a rule.
    """

    random: RandomFeatures = 1250
    sketch: Sketch = 0
    adapt: Annotated[Literal["first_task", "every_task"], Option("tasks in which LoRA is trained")] = "first_task"
    concat: Annotated[bool, Option("the head sees frozen and adapted features side by side")] = False
    transport: Annotated[bool, Option('carry older sums to new features; needs adapt = "every_task"')] = False
    transport_mu: Annotated[
        float, Option("mu of the transport, in units of the mean square of an old feature; large moves less", above=0)
    ] = 1e-2
    base: Annotated[
        str, Option("how LoRA pairs are trained and merged: a method, or one with settings, name(key = value)")
    ] = "lorm"
    rank: Rank = 16
    _tuner: Averaging = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.transport:
            refuse_idle(self, {"transport_mu": "nothing is transported without transport = true"})
        # a single task's module needs no merge over tasks, and no report for it
        merge = "gram" if self.adapt == "every_task" else "mean"
        settings: dict[str, object] = {"rank": self.rank, "task_merge": merge}
        object.__setattr__(self, "_tuner", lora_method(self.base, "base", settings))

    @property
    def random_features(self) -> int:
        """M, the number of random features."""
        return self.random

    @property
    def sketch_rank(self) -> int:
        """The rank k of the factor in whose form G is sent."""
        return self.sketch

    @property
    def adapter(self) -> Lora:
        """The adapter of the tuner, the method that trains LoRA."""
        assert isinstance(self._tuner.adapter, Lora)
        return self._tuner.adapter

    @property
    def additive(self) -> bool:
        """The head's sums add; the tuner's merge may not."""
        return self._tuner.additive

    def acting(self, phase: Phase) -> Method:
        """The tuner acts in all phases of a task but the last, which is the head's."""
        return self._tuner.acting(phase) if phase.phases_left else self

    def last_tuned(self, task: int) -> int:
        """The task after which the backbone of `task` was ready."""
        return task if self.adapt == "every_task" else 0

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The tuner's phases in the tasks in which it trains, then one report for the head."""
        tuned = self.last_tuned(task.index) == task.index
        return (*(self._tuner.phases(task, rounds) if tuned else ()), REPORT)

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where the tuner's phases, all of a task but the last, do not suit it."""
        super().check_phases(phases)
        self._tuner.check_phases([phase for phase in phases if phase.phases_left])

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Sums under the adapted backbone, beside the frozen and the old one where they are needed."""
        task = phase.task.index
        drift = self.drift(phase)
        extra = ([_bare] if self.concat else []) + ([partial(_modules, task - 1)] if drift else [])
        statistics: tuple[Statistic, ...] = (self.statistic(phase), drift) if drift else (self.statistic(phase),)
        return Local(passes=(Pass(statistics, partial(_modules, self.last_tuned(task)), extra_models=tuple(extra)),))

    def statistic(self, phase: Phase) -> FeatureSums:
        """G, Q and counts of the adapted features, which stand to the right of the frozen ones with `concat`."""
        drift = self.drift(phase)
        models = drift.models if drift else 1 + self.concat
        return replace(self.feature_sums(phase), models=models, chosen=(1, 0) if self.concat else (0,))

    def drift(self, phase: Phase) -> Drift | None:
        """The statistic by which older sums are transported to new features; None where there are none."""
        if not self.transport or phase.task.index == 0:
            return None
        new, old = ((1, 0), (1, 2)) if self.concat else ((0,), (1,))
        return Drift(phase.task, replace(self.features, seed=phase.seed), max(old) + 1, new, old, self.wire)

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """The ridge head; within a task, where there is none yet, the tuner's."""
        import torch

        if PROJECTION not in model.arrays:
            return self._tuner.scores(model, images)
        features = model.features(images)
        if self.concat:
            bare = {name: a.cpu().numpy() for name, a in model.arrays.items() if name == TOKENS}
            with model.using(bare):
                features = torch.cat([model.features(images), features], 1)
        return model.logits(self.phi(model, features))

    # ---- server half -------------------------------------------------------------------------------------------------

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Raise ConfigError for a transport without older sums, a rank that does not fit, or noise."""
        if self.noise:
            raise ConfigError(
                f"method.noise = {self.noise:g}: the training of LoRA would not be private; set it to 0, or choose "
                "ridge or ranpac"
            )
        for name, value, others in (
            ("layers", self.layers, 'name them, or "spread:3"'), ("penalty", self.penalty, '"auto", "gcv" or a number'),
        ):  # fmt: skip
            if value == {"layers": "auto", "penalty": "accuracy"}[name]:
                raise ConfigError(f'method.{name} = "{value}": takes a further report, which hybrids lack; {others}')
        if self.transport and self.adapt != "every_task":
            raise ConfigError('method.transport = true: features change only with method.adapt = "every_task"; set it')
        return {**super().init(backbone, classes, seed), **self._tuner.init(backbone, classes, seed)}

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """New arrays of the head, and of the tuner where it works."""
        state = super().begin(state, phase, backbone)
        tuned = self.last_tuned(phase.task.index) == phase.task.index
        return self._tuner.begin(state, phase, backbone) if tuned else state

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The length of features, and the modules under which sums are taken; clients hold the old ones already."""
        return Broadcast(state[ROWS], self._kept(state, phase))

    def _kept(self, state: State, phase: Phase) -> dict[str, np.ndarray]:
        """The modules under which this task's sums are taken, and with `transport` those of the task before."""
        task, older = phase.task.index, state.get(MODULES, {})
        if self.last_tuned(task) < task:
            return dict(older)
        before = _after(task - 1, _modules(task - 1, {}, older)) if self.transport else {}
        closing = replace(phase, kind=self._tuner.phases(phase.task, 1)[-1])
        deployed = self._tuner.deploy(state, closing)
        return {**before, **_after(task, {n: a for n, a in deployed.items() if not n.startswith("head.")})}

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Add the clients' sums of features, and of old and new features together."""
        drift = self.drift(phase)
        return {**super().sums(phase, broadcast, updates), **(drift.total(updates) if drift else {})}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Transport older sums to the new features, then add this task's."""
        state = {**state, MODULES: self._kept(state, phase)}
        sums, drift = split_drift(sums)
        if drift:
            state = {**state, SUMS: transported_sums(state[SUMS], drift, range(phase.task.index), self.transport_mu)}
        return super().merge_sums(state, phase, sums)

    def input_width(self, state: State) -> int:
        """Length of z: twice the backbone's with `concat`."""
        return super().input_width(state) * (1 + self.concat)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The backbone's modules under the ridge head; within a task what the tuner deploys."""
        if phase.phases_left:
            return self._tuner.deploy(state, phase)
        modules = _modules(self.last_tuned(phase.task.index), {}, state[MODULES])
        return {**modules, **super().deploy(state, phase)}
