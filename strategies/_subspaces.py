"""Holds what methods share that train a LoRA pair per task, away from the inputs of earlier tasks' layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.errors import MergeError
from fcil.merging.lowrank import LowRank
from fcil.merging.subspace import grown
from fcil.method import EXAMPLES, Modules, Pass, Phase, Task
from fcil.model.lora import A, B, layers_of, uniform
from fcil.model.weight_adapter import sides_of
from fcil.options import Option
from fcil.statistics.input_projection import InputProjection, projection_of

from ._folding import FoldingMethod
from ._mixed import leading

__all__ = ["SubspaceSettings", "basis_of", "mean_arrays", "with_bases", "with_new_pairs", "with_pairs"]

BASES = "bases"
"""The state's group: layer -> an orthonormal basis of its inputs in the tasks so far, (r, in)."""


@dataclass(frozen=True, kw_only=True)
class SubspaceSettings:
    """Stands before `FoldingMethod` among a method's bases: at a task's end clients report sketches of inputs."""

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


def basis_of(state: State, layer: str, width: int) -> np.ndarray:
    """The basis of a layer's inputs so far, (r, in) float64; of no rows in the first task."""
    return state.get(BASES, {}).get(layer, np.zeros((0, width))).astype(np.float64)


def with_bases(state: State, sums: Arrays, energy: float) -> State:
    """The state with every layer's basis grown by the task's sketches."""
    sketches = {layer: sums[projection_of(layer)] for layer in sides_of(Modules.of(state).module)}
    bases = {n: grown(basis_of(state, n, len(y)), y, energy) for n, y in sketches.items()}
    return {**state, BASES: {n: b for n, b in as_float32(bases).items() if len(b)}}


def with_new_pairs(
    method: FoldingMethod, state: State, phase: Phase, start: Callable[[str, np.ndarray], np.ndarray]
) -> State:
    """The state in which the last task's pairs are folded, and new ones begin beside them; the first task's stay.

    Args:
        start: (layer, A that was drawn) -> A of the new pair, (r, in), whose B is zero.
    """
    if phase.task.index == 0:
        return state
    trained, rng = leading(Modules.of(state).module, method.rank), phase.generator("new pair")
    pairs: dict[str, np.ndarray] = {}
    for layer in layers_of(trained):
        pairs[layer + A] = start(layer, uniform(rng, trained[layer + A].shape))
        pairs[layer + B] = np.zeros_like(trained[layer + B])
    folds = {layer: LowRank(trained[layer + B], trained[layer + A]) for layer in layers_of(trained)}
    return method.folded(state, pairs, folds, {})


def mean_arrays(method: FoldingMethod, state: State, sums: Arrays) -> dict[str, np.ndarray]:
    """The clients' means, weighted by examples, of all that trained, float64.

    Raises:
        MergeError: nobody has any examples.
    """
    if not sums[EXAMPLES] > 0:
        raise MergeError(f"a mean weighted by examples needs some; the clients have {sums[EXAMPLES]:g}")
    modules = Modules.of(state)
    start = {**leading(modules.module, method.rank), **modules.head}
    return {name: a + sums[name] / sums[EXAMPLES] for name, a in start.items() if name in sums}


def with_pairs(method: FoldingMethod, state: State, arrays: Arrays) -> State:
    """The state with new values of pairs, in front of the folded components, and of all others, such as head rows."""
    module, whole = Modules.of(state).module, as_float32(arrays)
    for name in [name for name in whole if name in module and name.endswith((A, B))]:
        old, axis = module[name], 0 if name.endswith(A) else 1
        rest = old[method.rank :] if axis == 0 else old[:, method.rank :]
        whole[name] = np.concatenate([whole[name], rest], axis)
    return Modules.of(state).replaced(whole)
