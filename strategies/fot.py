"""FOT: the server projects every merged update away from the inputs that earlier tasks' layers have seen."""

from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.subspace import outside
from fcil.method import REPORT, Backbone, Phase
from fcil.model.lora import A

from ._folding import FoldingMethod
from ._subspaces import SubspaceSettings, basis_of, mean_arrays, with_bases, with_new_pairs, with_pairs

__all__ = ["FOT"]


@dataclass(frozen=True, kw_only=True)
class FOT(SubspaceSettings, FoldingMethod):
    """Average, and project updates away from earlier tasks' inputs.

    Bakman et al., "Federated orthogonal training", ICLR 2024, arXiv 2309.01289. At a task's end clients send, of every
    layer, a random sketch of its inputs; the server grows the basis U of the inputs of all tasks until it holds the
    share `energy` of the sketch, and in later tasks projects the merged change of a round:

        Y = sum_k X_k Omega_k,   U <- U and leading left singular vectors of (I - U U^T) Y,   dW <- dW (I - U U^T)

    so that a layer answers earlier inputs as it did, but for 1 - energy of them. In the first task it is federated
    averaging. Here dW = B A of LoRA pairs: each task has a pair that is folded into W when the task ends, and A's rows
    are projected, which projects B A, since the pair begins there. Differs from the paper, which trains all weights:
    factors are averaged, each on its own, and only the weights of linear layers change. The rank of U is bounded by
    `columns` a task. Sent beside federated averaging: `columns` x in floats a layer and task, up; folded pairs go down
    once. The server keeps U and the folded pairs, the clients nothing. Literal transcription:
    `tests/reference_subspaces.py`.
    """

    @property
    def is_mean(self) -> bool:
        """The server projects what the clients send."""
        return False

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Fold the last task's pair; the new one's A is drawn and projected."""

        def start(layer: str, drawn: np.ndarray) -> np.ndarray:
            return outside(basis_of(state, layer, drawn.shape[1]), drawn)

        return with_new_pairs(self, super().begin(state, phase, backbone), phase, start)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The clients' means, with A projected away from the basis; after the rounds the grown bases."""
        if phase.kind == REPORT:
            return super().merge_sums(state, phase, sums)
        means = mean_arrays(self, state, sums)
        for name, a in means.items():
            if name.endswith(A):
                means[name] = outside(basis_of(state, name.removesuffix(A), a.shape[1]), a)
        return with_pairs(self, state, means)

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state with bases that hold the task's inputs too."""
        return with_bases(state, sums, self.energy)
