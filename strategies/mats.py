"""MaTS: match experts by Fisher blocks, with conjugate gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fcil.arrays import State
from fcil.merging.expert import Expert, check_compatible
from fcil.merging.mats import kronecker_match
from fcil.merging.packed import shrunk
from fcil.method import Broadcast, Kind, Pass, Phase, Task
from fcil.options import Option
from fcil.statistics.gradients import SAMPLES, gradient_pass, output_gram
from fcil.statistics.inputs import InputGram, input_gram

from ._merging import Draw, MergeMethod

__all__ = ["MaTS"]


@dataclass(frozen=True, kw_only=True)
class MaTS(MergeMethod):
    """Match experts by Fisher blocks, with conjugate gradients.

    W of sum_i S_i W G_i = sum_i S_i W_i G_i, dense; G_i of a layer's inputs, S_i of the gradients at its outputs.
    Tam et al., "Merging by matching models in task parameter subspaces", TMLR 2024, arXiv 2312.04339. G_i is a sum and
    S_i a mean over samples, so that an expert counts by its data once. A client reports in (in + 1) / 2 and
    out (out + 1) / 2 floats a layer, too much for every round of a large model.
    Literal transcription: `tests/reference_peers.py`, `mats`.
    """

    iterations: Annotated[int, Option("steps of conjugate gradients a layer, at most", low=1)] = 100
    tolerance: Annotated[float, Option("residual, relative to the right-hand side, at which they stop", above=0)] = 1e-6
    shrink: Annotated[float, Option("off-diagonals of G_i and S_i are multiplied by it", low=0, high=1)] = 1.0

    def passes(self, kind: Kind, task: Task) -> tuple[Pass, ...]:
        """One pass that sees inputs going forward and gradients coming back."""
        return (gradient_pass(task, InputGram(), through=self.weight_adapter.trains[-1:]),)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the pairs and, for a report too, the head rows that the loss needs."""
        return self.with_head_rows(state, phase)

    def combine(self, experts: Sequence[Expert], draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
        """Merge layer by layer, dense."""
        samples = [max(float(expert.statistics[SAMPLES][0]), 1.0) for expert in experts]
        for layer in check_compatible(experts):
            inputs = [shrunk(e.statistics[input_gram(layer)], self.shrink) for e in experts]
            outputs = [
                shrunk(e.statistics[output_gram(layer)], self.shrink) / n for e, n in zip(experts, samples, strict=True)
            ]
            changes = [expert.changes[layer] for expert in experts]
            yield layer, kronecker_match(changes, inputs, outputs, self.iterations, self.tolerance).x
