"""FOT: the server projects every merged update away from the inputs that earlier tasks' layers have seen."""

from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.subspace import outside
from fcil.method import Phase
from fcil.model.lora import A

from ._subspaces import SubspaceMethod

__all__ = ["FOT"]


@dataclass(frozen=True, kw_only=True)
class FOT(SubspaceMethod):
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

    def start_of(self, state: State, layer: str, drawn: np.ndarray) -> np.ndarray:
        """A as it was drawn, projected."""
        return outside(self.basis(state, layer, drawn.shape[1]), drawn)

    def projected(self, state: State, means: Arrays) -> Arrays:
        """The means, with A projected away from the basis."""
        projected = dict(means)
        for name, a in means.items():
            if name.endswith(A):
                basis = self.basis(state, name.removesuffix(A), a.shape[1])
                projected[name] = outside(basis, a) if len(basis) else a
        return projected

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state with bases that hold the task's inputs too."""
        return self.with_bases(state, sums)
