"""The base of methods that train a LoRA pair per task, away from the inputs of earlier tasks' layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.errors import MergeError
from fcil.merging.lowrank import LowRank
from fcil.merging.subspace import grown
from fcil.method import EXAMPLES, REPORT, Averaging, Backbone, Modules, Pass, Phase, Task
from fcil.model.lora import A, B, layers_of, uniform
from fcil.options import Option
from fcil.statistics.input_projection import InputProjection, projection_of

from ._folding import FoldingMethod
from ._mixed import leading

__all__ = ["SubspaceMethod"]

BASES = "bases"
"""The state's group: layer -> an orthonormal basis of its inputs in the tasks so far, (r, in)."""


@dataclass(frozen=True, kw_only=True)
class SubspaceMethod(FoldingMethod):
    """Each task's pair is folded into the weights at its end; a basis of the inputs of every layer grows with it."""

    energy: Annotated[
        float, Option("share of a layer's inputs, by energy, that its basis holds after each task", low=0, high=1)
    ] = 0.95
    columns: Annotated[int, Option("s, columns of the random sketch of a layer's inputs", low=1)] = 64

    @property
    def additive(self) -> bool:
        """Means of factors, and sketches, are sums."""
        return True

    def task_report(self, task: Task) -> tuple[Pass, ...]:
        """A random sketch of every layer's inputs, under the merged model and the test view."""
        return (Pass((InputProjection(self.columns),)),)

    def basis(self, state: State, layer: str, width: int) -> np.ndarray:
        """The basis of a layer's inputs so far, (r, in) float64; of no rows in the first task."""
        return state.get(BASES, {}).get(layer, np.zeros((0, width))).astype(np.float64)

    def with_bases(self, state: State, sums: Arrays) -> State:
        """The state with every layer's basis grown by the task's sketches."""
        sketches = {layer: sums[projection_of(layer)] for layer in layers_of(Modules.of(state).module)}
        bases = {n: grown(self.basis(state, n, len(y)), y, self.energy) for n, y in sketches.items()}
        return {**state, BASES: {n: b for n, b in as_float32(bases).items() if len(b)}}

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Fold the last task's pair, and begin a new one beside it: B zero, and A as `start_of` says."""
        state = super().begin(state, phase, backbone)
        if not self._tasks_before(phase):
            return state
        module, rng = Modules.of(state).module, phase.generator("new pair")
        trained = leading(module, self.rank)
        folds = {layer: LowRank(trained[layer + B], trained[layer + A]) for layer in layers_of(module)}
        pairs: dict[str, np.ndarray] = {}
        for layer in folds:
            pairs[layer + A] = self.start_of(state, layer, uniform(rng, trained[layer + A].shape))
            pairs[layer + B] = np.zeros_like(trained[layer + B])
        return self.folded(state, pairs, folds, {})

    def start_of(self, state: State, layer: str, drawn: np.ndarray) -> np.ndarray:
        """A of a new task's pair, (r, in), of one that was drawn."""
        return drawn

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The mean of what trained, as `projected` leaves it, before the folded components; or after a report.

        Raises:
            MergeError: nobody has any examples.
        """
        if phase.kind == REPORT:
            return Averaging.merge_sums(self, state, phase, sums)
        if not sums[EXAMPLES] > 0:
            raise MergeError(f"a mean weighted by examples needs some; the clients have {sums[EXAMPLES]:g}")
        modules = Modules.of(state)
        start = {**leading(modules.module, self.rank), **modules.head}
        means = {n: start[n] + sums[n] / sums[EXAMPLES] for n in start if n in sums}
        return self.with_pair(state, as_float32(self.projected(state, means)))

    def projected(self, state: State, means: Arrays) -> Arrays:
        """What the server makes of the clients' means: leaves them, unless overridden."""
        return means

    def with_pair(self, state: State, arrays: Mapping[str, np.ndarray]) -> State:
        """The state with new values of pairs, in front of the folded components, and of head rows."""
        module, whole = Modules.of(state).module, dict(arrays)
        for name in arrays.keys() & module.keys():
            old, axis = module[name], 0 if name.endswith(A) else 1
            rest = old[self.rank :] if axis == 0 else old[:, self.rank :]
            whole[name] = np.concatenate([arrays[name], rest], axis)
        return Modules.of(state).replaced(whole)
