"""Fisher averaging: average experts by entry, weighted by Fisher information."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from fcil.arrays import State, as_float32
from fcil.errors import ConfigError
from fcil.merging.expert import Expert, check_compatible, shares
from fcil.merging.weighted import fisher_mean
from fcil.method import Averaging, Broadcast, ClientUpdate, Kind, Modules, Pass, Phase, Task, head
from fcil.model.full import Full
from fcil.model.weight_adapter import DELTA, PARAMETER
from fcil.options import Option
from fcil.statistics.gradients import EVERY_PARAMETER, WHOLE_WEIGHTS, fisher_of, fisher_pass

from ._merging import Draw, MergeMethod

__all__ = ["FisherAverage"]


@dataclass(frozen=True, kw_only=True)
class FisherAverage(MergeMethod):
    """Average experts by entry, weighted by Fisher information.

    sum_i F_i W_i / sum_i F_i with F_i the diagonal of expert i's empirical Fisher information.
    Matena and Raffel, "Merging models with Fisher-weighted averaging", NeurIPS 2022, arXiv 2111.09832. F_i is a sum
    over samples, so that an expert counts by its data. Of whole weights it costs out x in floats a layer and does not
    depend on how a change is cut into factors; of factors it costs what these cost, and does: B M and M^-1 A are the
    same change with another Fisher, so that it only makes sense among clients that began with one pair.
    Literal transcription: `tests/reference_peers.py`, `fisher_mean`.
    """

    of: Annotated[
        Literal["weights", "factors"], Option("Fisher of whole weights, or of A, B and head rows (rounds only)")
    ] = "weights"
    floor: Annotated[
        float, Option("added to every F_i by the expert's weight, as a share of the layer's mean Fisher", above=0)
    ] = 1e-6

    entrywise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of == "factors" and self.at != "round":
            raise ConfigError(
                'method.of = "factors": tasks\' pairs do not begin alike, so that their factors have no common mean; '
                'set method.at = "round", or method.of = "weights"'
            )

    @property
    def is_mean(self) -> bool:
        """A weighted mean of equal experts is that expert, in rounds too."""
        return True

    def passes(self, kind: Kind, task: Task) -> tuple[Pass, ...]:
        """One pass with gradients, one sample at a time."""
        factors = (*self.weight_adapter.trains, head.block(task.index))
        whole = EVERY_PARAMETER if isinstance(self.adapter, Full) else WHOLE_WEIGHTS
        return (fisher_pass(task, whole if self.of == "weights" else factors),)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the pairs and, for a report too, the head rows that the loss needs."""
        return self.with_head_rows(state, phase)

    @property
    def merges_changes_of_rounds(self) -> bool:
        """Tell whether rounds are merged as changes: with `of` = factors array by array."""
        return super().merges_changes_of_rounds and self.of == "weights"

    @property
    def additive(self) -> bool:
        """Declare sums where rounds are averaged: a mean weighted by Fisher needs every client's update."""
        return super().additive

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """Merge changes as the other methods do, or with `of` = factors array by array."""
        if self.of == "weights" or phase.kind == "report":
            return super().merge(state, phase, updates)
        averaged = Averaging.merge(self, state, phase, updates)  # and the adapter's schedule goes on
        weights = shares([Expert({}, u.num_examples) for u in updates])
        merged = {
            name: fisher_mean(
                [u.arrays[name].reshape(len(a), -1) for u in updates],
                [u.statistics[fisher_of(name)].reshape(len(a), -1) for u in updates], list(weights), self.floor,
            ).reshape(a.shape)
            for name, a in updates[0].arrays.items()
        }  # fmt: skip
        return Modules.of(averaged).replaced(as_float32(merged))

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Merge layer by layer, dense."""
        weights = list(shares(experts))
        for layer in check_compatible(experts):
            name = layer if layer.startswith(PARAMETER) else layer + DELTA
            changes = [expert.changes[layer] for expert in experts]
            fishers = [expert.statistics[fisher_of(name)].reshape(changes[0].shape) for expert in experts]
            yield layer, fisher_mean(changes, fishers, weights, self.floor)
