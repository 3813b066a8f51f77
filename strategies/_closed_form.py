"""The base of methods that solve a head from sums of features: one report a task, and sums that only add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from fcil.arrays import Arrays, State, shapes
from fcil.errors import ConfigError
from fcil.method import (
    REPORT,
    SCORES,
    TOKENS,
    Backbone,
    Broadcast,
    ClientUpdate,
    GramLayout,
    Kind,
    Local,
    Method,
    Model,
    Pass,
    Phase,
    Statistic,
    Task,
    Tokens,
    gram_layouts,
    head,
)
from fcil.method.tokens import side_by_side, sides, spread
from fcil.options import Option
from fcil.statistics.candidates import CandidateSums
from fcil.statistics.feature_map import FeatureMap
from fcil.statistics.features import FeatureSums

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FOLD", "PROJECTION", "ROWS", "SUMS", "WIDTH", "ClosedForm", "feature_width"]

ROWS, SUMS = "rows", "sums"
"""The state's groups: a head block without rows and the tokens, which tell what features are, and the sums so far."""
FOLD, PROJECTION = SCORES + "fold", SCORES + "projection"
"""The deployed maps from features to phi, each without rows where there is none."""
WIDTH = 2400
"""Numbers into which tokens are folded unless said otherwise."""
TOKENS_OF_A_LAYER = "grid:4"
"""Tokens where layers are named and tokens are not."""


def feature_width(state: State) -> int:
    """Length of the features."""
    return next(int(a.shape[1]) for name, a in state[ROWS].items() if head.task_of(name) is not None)


@dataclass(frozen=True, kw_only=True)
class ClosedForm(Method):
    """The base of closed-form classifiers: nothing trains, and each task is one pass over its data."""

    refused: ClassVar[Mapping[str, str]] = {"adapter": "a classifier in closed form trains nothing; leave it out"}

    layers: Annotated[
        int | tuple[int, ...] | str,
        Option(
            'layers, counted from 1, whose tokens are the features: one, a list, or "spread:3" for evenly spaced ones; '
            "empty for the network's own features",
            low=1,
            forms=("spread:<k>",),
        ),
    ] = ()
    tokens: Annotated[
        str,
        Option(
            f'tokens of each of these layers: "class", "mean", "grid:<k>" for the means of k x k cells, "patches", or '
            f'several, "class+grid:2"; empty for "{TOKENS_OF_A_LAYER}", or all patches where they are fewer'
        ),
    ] = ""
    project: Annotated[
        int,
        Option("fold the tokens into so many numbers where they have more, by a random linear map; 0: never", low=0),
    ] = WIDTH

    clip: Annotated[
        float,
        Option(
            "scale phi down to this norm where it is longer, and refuse sums that no samples of this norm have: "
            "bounds what one client can move; 0: never",
            low=0,
        ),
    ] = 0.0

    @property
    def features(self) -> FeatureMap:
        """The map from the network's features to phi, but for its seed."""
        return FeatureMap(project=self.folds_into, clip=self.clip)

    @property
    def folds_into(self) -> int:
        """Numbers into which features are folded; 0 for the network's own features, which stay as they are."""
        return self.project if self.layers else 0

    def statistic(self, phase: Phase) -> FeatureSums | CandidateSums:
        """Name the statistic that a client sums over a task's samples."""
        raise NotImplementedError(f"{type(self).__name__}.statistic")

    def sides(self, backbone: Backbone) -> tuple[int, ...]:
        """The tokens of a layer: g of each grid, 0 for the class token."""
        return sides(self.tokens, backbone) if self.tokens else (min(4, *backbone.grid),)

    def chosen_tokens(self, backbone: Backbone) -> Tokens | None:
        """The tokens with which the run begins; None for the network's own features."""
        if not self.layers:
            return None
        layers = self.layers
        if isinstance(layers, str):
            layers = spread(int(layers.partition(":")[2]), backbone.blocks)
        return side_by_side((layers,) if isinstance(layers, int) else layers, self.sides(backbone))

    @property
    def additive(self) -> bool:
        """Sums of features add over groups of clients."""
        return True

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """One report per task, whatever the protocol's rounds."""
        return (REPORT,)

    def local(self, phase: Phase) -> Local:
        """Sum the statistic over the task's samples."""
        statistic: Statistic = self.statistic(phase)
        return Local(passes=(Pass((statistic,)),))

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Raise ConfigError for tokens that the backbone does not have."""
        if self.tokens and not self.layers:
            raise ConfigError(
                f'method.tokens = "{self.tokens}": of which layers? Set method.layers, for example to '
                f'[{backbone.blocks}] or "spread:3"'
            )
        if self.project != WIDTH and not self.layers:
            raise ConfigError(
                f"method.project = {self.project}: the network's own features are not folded; name method.layers, for "
                f"example [{backbone.blocks}]"
            )
        if tokens := self.chosen_tokens(backbone):
            tokens.check(backbone)
        return super().init(backbone, classes, seed)

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Add zero sums for the new classes, and a head without rows, which tells clients how long features are."""
        if phase.task.index == 0:
            tokens = self.chosen_tokens(backbone)
            return self.opened({}, phase, tokens, tokens.width(backbone) if tokens else backbone.width)
        named = state[ROWS].get(TOKENS)
        return self.opened(state, phase, None if named is None else Tokens.of(named), feature_width(state))

    def opened(self, state: State, phase: Phase, tokens: Tokens | None, width: int) -> State:
        """The state with zero sums for a task's classes, of features of this length."""
        rows = {head.weight(phase.task.index): np.zeros((0, width), np.float32)}
        rows |= {TOKENS: tokens.array()} if tokens else {}
        fresh = self.statistic(phase).zeros(shapes(rows))
        return {**state, ROWS: rows, SUMS: {**fresh, **state.get(SUMS, {})}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send a head without rows, which tells the length of features, and their tokens where they are named."""
        return Broadcast(state[ROWS])

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why the sums are of no samples, or of none of this norm."""
        return self.statistic(phase).objection(update.statistics, update.num_examples)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Add the clients' sums, in float64."""
        return self.statistic(phase).total(updates)

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramLayout]:
        """The statistic's sums have a Gram as its upper half, also where clients send a factor of it."""
        totals = self.statistic(phase).total_shapes(shapes(broadcast.arrays))
        return {**super().gram_sums(phase, broadcast), **gram_layouts(totals)}

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Add the task's sums to those of the tasks before."""
        return {**state, SUMS: {**state[SUMS], **{name: state[SUMS][name] + a for name, a in sums.items()}}}

    def maps(self, state: State, phase: Phase, width: int) -> dict[str, np.ndarray]:
        """The tokens, the fold and R by which a deployed model makes phi; `width` is the length of features."""
        features, empty = self.map_of(state, phase), np.zeros((0, 0), np.float32)
        table, matrix = features.table(width), features.matrix(width)
        named = {name: a for name, a in state[ROWS].items() if name == TOKENS}
        fold = {} if table is None else {FOLD: table}
        return {**named, **fold, PROJECTION: np.array(empty if matrix is None else matrix)}

    def map_of(self, state: State, phase: Phase) -> FeatureMap:
        """The map from features to phi in this phase, with its seed."""
        statistic = self.statistic(phase)
        assert isinstance(statistic, FeatureSums)
        return statistic.map

    def phi(self, model: Model, z: Tensor) -> Tensor:
        """Map features z, (n, length of z), to phi by the deployed maps, (n, M) float32."""
        return self.features.apply(z, model.arrays[PROJECTION], model.arrays.get(FOLD)).float()

    def scores(self, model: Model, images: Tensor) -> Tensor:
        """Class scores by the head on the features that were summed."""
        return model.logits(self.phi(model, model.features(images)))
