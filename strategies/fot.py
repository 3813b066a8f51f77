"""FOT: the server projects every merged update away from the inputs that earlier tasks' layers have seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.errors import ConfigError
from fcil.merging.subspace import outside
from fcil.method import REPORT, Backbone, Broadcast, ClientUpdate, Modules, Phase
from fcil.model.full import Full
from fcil.model.lora import A, Lora
from fcil.model.weight_adapter import DELTA, WeightAdapter
from fcil.options import Option

from ._adapters import of_one_weight
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
    averaging. With adapter = "full" all parameters train, as in the paper; only linear layers' changes are projected,
    and biases, norms and the embedding of patches go on. By default dW = B A of LoRA pairs: each task has a pair that
    is folded into W when the task ends, and A's rows are projected, which projects B A, since the pair begins there;
    factors are averaged, each on its own, and only weights of linear layers change.

    Public code raises the share by a little after every task (`energy_step`) and lets clients count alike
    (`weights`). The rank of U is bounded by `columns` a task. Sent beside federated averaging: `columns` x in floats a
    layer and task, up; folded pairs go down once. The server keeps U and the folded pairs, the clients nothing. Literal
    transcription: `tests/reference_subspaces.py`.
    """

    refused: ClassVar[Mapping[str, str]] = {}

    adapter_text: Annotated[
        Literal["lora", "full"],
        Option("what clients train: a LoRA pair a task, or all parameters as in the paper", key="adapter"),
    ] = "lora"
    energy_step: Annotated[float, Option("added to `energy` after each task", low=0, high=1)] = 0.0
    weights: Annotated[
        Literal["examples", "equal"], Option("clients count by their examples, or alike, as in public code")
    ] = "examples"

    @property
    def adapter(self) -> WeightAdapter:
        """A pair on qkv, proj, fc1 and fc2 of every block, or every parameter."""
        return Full() if self.adapter_text == "full" else Lora(self.rank)

    @property
    def is_mean(self) -> bool:
        """The server projects what the clients send."""
        return False

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError where the last task's share would be above 1."""
        super().check_phases(phases)
        last = max((phase.task.index for phase in phases), default=0)
        if (reached := self._share(last)) > 1 + 1e-9:
            raise ConfigError(
                f"method.energy_step = {self.energy_step:g}: after {last + 1} tasks a basis would have to hold "
                f"{reached:.3f} of the inputs' energy, more than all; choose a smaller step or method.energy"
            )

    def _share(self, task: int) -> float:
        return self.energy + task * self.energy_step

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Fold the last task's pair; the new one's A is drawn and projected. Whole weights go on."""

        def start(layer: str, drawn: np.ndarray) -> np.ndarray:
            return outside(basis_of(state, layer, drawn.shape[1]), drawn)

        begun = super().begin(state, phase, backbone)
        return begun if isinstance(self.adapter, Full) else with_new_pairs(self, begun, phase, start)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of federated averaging; of clients of one weight, if they count alike."""
        return super().sums(phase, broadcast, of_one_weight(updates) if self.weights == "equal" else updates)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The clients' means, projected away from the basis; after the rounds the grown bases."""
        if phase.kind == REPORT:
            return super().merge_sums(state, phase, sums)
        module, means = Modules.of(state).module, mean_arrays(self, state, sums)
        for name, a in means.items():
            if name.endswith(A):
                means[name] = outside(basis_of(state, name.removesuffix(A), a.shape[1]), a)
            if name.endswith(DELTA):
                change = outside(basis_of(state, name.removesuffix(DELTA), a.shape[1]), a - module[name])
                means[name] = module[name] + change
        return with_pairs(self, state, means)

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The state with bases that hold the task's inputs too."""
        return with_bases(state, sums, min(1.0, self._share(phase.task.index)))
