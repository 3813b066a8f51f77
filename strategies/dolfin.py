"""DOLFIN: A is computed from the new task's inputs outside those of earlier tasks, and B alone trains."""

from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.subspace import leading_directions
from fcil.method import REPORT, TRAIN, Backbone, Kind, Modules, Phase, Task
from fcil.model.lora import A, B, layers_of
from fcil.statistics.input_projection import projection_of

from ._folding import FoldingMethod
from ._subspaces import SubspaceSettings, basis_of, mean_arrays, with_bases, with_new_pairs, with_pairs

__all__ = ["Dolfin"]


@dataclass(frozen=True, kw_only=True)
class Dolfin(SubspaceSettings, FoldingMethod):
    """Compute A outside earlier tasks' inputs; train and average B.

    "DOLFIN", arXiv 2510.13567, after InfLoRA's subspaces, as far as digests tell it: the paper was not at hand. Before
    a task clients send a random sketch of every layer's inputs H; with M the basis of earlier tasks' inputs, the server
    sets the frozen factor of the task's pair, one for all clients, so that averaging B is exact:

        rows of A_t = the r leading left singular vectors of (I - M M^T) H,   W <- W + B_t A_t at the task's end

    After the task a second sketch, under the trained model, grows M until it holds the share `energy` of it. Sent
    beside B and the head's rows: `columns` x in floats a layer up, twice a task, and A down once a task; folded pairs
    once. The server keeps M and the folded pairs, the clients nothing. Differs from the paper: pairs on qkv, proj, fc1
    and fc2 in place of keys and values only; one basis in place of DualGPM's two; sketches in place of activations.
    Literal transcription: `tests/reference_subspaces.py`.
    """

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """Name B, which alone trains."""
        return (f"*{B}",)

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """A report of the task's inputs, from which A is made; the rounds; a report under the trained model."""
        return (REPORT, *(TRAIN,) * rounds, REPORT)

    def evaluates(self, phase: Phase) -> bool:
        """Nothing has been trained after the first report."""
        return phase.kind == TRAIN or not phase.phases_left

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Fold the last task's pair; the new one's A is drawn, and set by the first report."""
        return with_new_pairs(self, super().begin(state, phase, backbone), phase, lambda layer, drawn: drawn)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The clients' means of B and of head rows, or what a report changes."""
        if phase.kind == REPORT:
            return super().merge_sums(state, phase, sums)
        return with_pairs(self, state, mean_arrays(self, state, sums))

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state with A of the task's pair; after the rounds with the grown bases."""
        if not phase.phases_left:
            return with_bases(state, sums, self.energy)
        factors: dict[str, np.ndarray] = {}
        for layer in layers_of(Modules.of(state).module):
            sketch = sums[projection_of(layer)]
            factors[layer + A] = leading_directions(basis_of(state, layer, len(sketch)), sketch, self.rank)
        return with_pairs(self, state, factors)
