"""STSA: adapt the backbone in the first task, then solve a ridge head from sums of random features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.errors import ConfigError
from fcil.method import (
    REPORT,
    TOKENS,
    TRAIN,
    Backbone,
    Broadcast,
    Kind,
    Local,
    Method,
    Model,
    Pass,
    Phase,
    Task,
    head,
)
from fcil.options import Option
from fcil.statistics.features import FeatureSums
from fcil.statistics.group_sums import GroupSums

from ._adapters import AdapterSettings, FirstTaskAveraging
from ._closed_form import PROJECTION, ROWS
from ._idle import refuse_idle
from ._ridge import RidgeMethod
from .ranpac import RandomFeatures

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["STSA"]

TUNED = "tuned"
"""The state's group of the backbone's modules after the first task; among the references, before a slash."""


def _tuned(arrays: Arrays, references: Arrays) -> dict[str, np.ndarray]:
    """The adapted backbone, and the tokens that make its features; a model of `Pass`."""
    tokens = {name: a for name, a in arrays.items() if name == TOKENS}
    return {**tokens, **{n.removeprefix(f"{TUNED}/"): a for n, a in references.items() if n.startswith(f"{TUNED}/")}}


@dataclass(frozen=True, kw_only=True)
class STSA(AdapterSettings, RidgeMethod):
    """Adapt the backbone in the first task, then solve a ridge head from sums.

    Spatial-temporal statistics aggregation, arXiv 2506.01327. The equations are those of its public code
    (Yuqin-G/STSA at aaaa006); the paper's text was not compared. Rounds of the first task are federated averaging of
    the adapter; then the backbone is frozen. Of every task clients send once

        G = sum phi phi^T,  Q = sum y phi^T,  n,      phi = relu(R z), R ~ N(0, 1) of `random` rows, never sent

    which the server adds over clients (space) and tasks (time): H^T = Q (G + lambda I)^-1. STSA-E, `groups` > 0: in
    place of G clients send sums of random groups of each class, of which the server estimates it
    (`fcil.statistics.group_sums`): most numbers are saved, and a group of one sample shows that sample's phi.

    It is `ranpac` but for the first task's rounds; with `adapter = "head"`, which leaves them out, it is
    `ranpac(penalty = "gcv")`. From `lorm+ranpac` with `base = "fedavg"` it differs in defaults, in the adapters that
    it takes, and in `groups`.

    Sent up after a task of c classes, by a client, with w = 8 bytes a number, or 4 with `wire = "float32"`:

        w (M (M + 1) / 2 + c M + c), with groups w groups c (M + 1); M the length of phi

    down the adapted modules once; in the first task's rounds as federated averaging. Kept by clients: nothing; by the
    server G, Q, n and the modules. Differs from public code: clients count by their examples (`weights`); lambda by
    generalised cross-validation, in place of 1e6 for every data set; samples go to groups independently, in place of a
    client's shuffled samples cut into equal parts. The estimate needs the number K of groups. Public code counts
    all groups of the clients that report, also those without a sample of the class, by which a class's scatter is too
    small by (K_c - 1) / (K - 1), of K_c groups that have it. `empty_groups = "left_out"` counts K_c, and is right on
    average under any skew. Literal transcription: `tests/reference_baselines3.py`.
    """

    refused: ClassVar[Mapping[str, str]] = {}

    weights: Annotated[
        Literal["examples", "equal"],
        Option("clients count by their examples, or alike, as in public code"),
    ] = "examples"
    random: RandomFeatures = 1250
    penalty: Annotated[
        float | Literal["auto", "gcv"],
        Option(
            "lambda; `gcv`: by generalised cross-validation of sums; `auto`: from a grid by the error on 10 % of the "
            "samples, summed apart, without groups only",
            above=0,
        ),
    ] = "gcv"
    groups: Annotated[
        int, Option("STSA-E: random groups of a client's samples, 5 in public code; 0 sends G", low=0)
    ] = 0
    empty_groups: Annotated[
        Literal["counted", "left_out"], Option("groups without a class: counted for it, as in public code, or left out")
    ] = "counted"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups:
            refuse_idle(self, {"empty_groups": "there are groups only with groups > 0 (STSA-E)"})

    @property
    def random_features(self) -> int:
        """M, the number of random features."""
        return self.random

    @property
    def additive(self) -> bool:
        """G adds over clients; its estimate from groups needs all of them at once."""
        return not self.groups

    @property
    def tuner(self) -> FirstTaskAveraging:
        """Federated averaging, which does the first task's rounds."""
        return FirstTaskAveraging(rank=self.rank, adapter_text=self.adapter_text, alike=self.weights == "equal")

    def acting(self, phase: Phase) -> Method:
        """Federated averaging acts in rounds, this method in reports."""
        return self.tuner if phase.kind == TRAIN else self

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds in the first task, if there is an adapter to train; then a report."""
        return (*((TRAIN,) * rounds if task.index == 0 and self.adapter else ()), REPORT)

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where the adapter's schedule does not fit into the first task's rounds."""
        self.tuner.check_phases([phase for phase in phases if phase.kind == TRAIN])

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Sum under the adapted backbone."""
        return Local(passes=(Pass((self.statistic(phase),), _tuned),))

    def statistic(self, phase: Phase) -> FeatureSums:
        """G, Q and counts of phi, or the sums of groups in their place."""
        if not self.groups:
            return self.feature_sums(phase)
        features = replace(self.features, seed=phase.seed)
        return GroupSums(
            phase.task, features, wire=self.wire, groups=self.groups, all_groups=self.empty_groups == "counted"
        )

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """The ridge head on phi; within the first task, where there is none yet, the head that trains."""
        return super().scores(model, images) if PROJECTION in model.arrays else self.tuner.scores(model, images)

    # ---- server half -------------------------------------------------------------------------------------------------

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Raise ConfigError for settings that exclude each other, or that do not fit the backbone."""
        if self.noise:
            raise ConfigError(
                f"method.noise = {self.noise:g}: the training of the adapter would not be private; set it to 0, or "
                "choose ranpac"
            )
        if self.layers == "auto":
            raise ConfigError('method.layers = "auto": takes a further report; name them, or "spread:3"')
        if self.groups and self.penalty == "auto":
            raise ConfigError(
                f'method.penalty = "auto": with method.groups = {self.groups} no G of held-out samples is known; set '
                '"gcv" or a number'
            )
        return {**super().init(backbone, classes, seed), **self.tuner.init(backbone, classes, seed)}

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Zero sums for the new classes; in the first task what its rounds train."""
        state = super().begin(state, phase, backbone)
        return self.tuner.begin(state, phase, backbone) if phase.kind == TRAIN else state

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The length of features, and the adapted modules, which clients hold from the first report on."""
        return Broadcast(state[ROWS], {f"{TUNED}/{name}": a for name, a in self._modules(state, phase).items()})

    def _modules(self, state: State, phase: Phase) -> Arrays:
        if phase.task.index or not self.adapter:
            return state.get(TUNED, {})
        return {n: a for n, a in self.tuner.deploy(state, phase).items() if head.task_of(n) is None}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Add the task's sums; in the first task keep the modules as they are from now on."""
        return super().merge_sums({**state, TUNED: self._modules(state, phase)}, phase, sums)

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The adapted modules under the ridge head; within the first task what is trained."""
        if phase.kind == TRAIN:
            return self.tuner.deploy(state, phase)
        return {**state[TUNED], **super().deploy(state, phase)}
