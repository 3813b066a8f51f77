"""Online EWC, federated: a penalty on moving what mattered for earlier tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fcil.arrays import Arrays, State, as_float32
from fcil.errors import ConfigError
from fcil.method import EXAMPLES, REPORT, Broadcast, Modules, Pass, Phase, Step, Task
from fcil.options import Option
from fcil.statistics.gradients import Kind, fisher_of, fisher_pass

from ._adapters import AdapterAveraging

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EWC"]

MEMORY, ANCHOR, FISHER = "ewc", "anchor/", "fisher/"
"""The state's group, and the prefixes of its arrays, under which they are references too."""


@dataclass(frozen=True, kw_only=True)
class EWC(AdapterAveraging):
    """Average what trains under a penalty on moving what earlier tasks need.

    With theta* the merged arrays at the last task's end and F a running Fisher information, clients minimise

        L_i(theta) + strength / 2 sum_j F_j (theta_j - theta*_j)^2
        F <- gamma F + sum_i F_i / n,    at a task's end, under the merged model, over all n samples of all clients i

    Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796, with the
    one running F and the one anchor of Schwarz et al., "Progress & Compress", ICML 2018, arXiv 1805.06370. A sample's
    share of F is, with p over its task's classes and y its label,

        exact      sum_c p(c|x) (grad log p(c|x))^2, the paper's; a backward pass for each class of the task
        empirical  (grad log p(y|x))^2
        mammoth    p(y|x) (grad log p(y|x))^2, as the code of mammoth and fed-mammoth has it

    Their penalty lacks the half: their lambda is strength / 2. Sent: after each task F_i, a model up, and theta* and F,
    two models down, once to each client. Kept by a client: nothing; by the server two models.

    Unlike the papers: federated; LoRA by default, whose factors it holds one by one; cross-entropy masked to the
    current task's classes. Head rows of earlier tasks do not train, and need no penalty. With strength = 0 it is
    federated averaging bit for bit. Literal transcription: `tests/reference_baselines.py`.
    """

    strength: Annotated[float, Option("strength of the penalty; lambda in the papers", low=0)] = 100.0
    gamma: Annotated[float, Option("share of the earlier tasks' Fisher information that stays", low=0, high=1)] = 0.9
    fisher: Annotated[Kind, Option("which labels F is taken of: the model's own, or the true ones")] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapter is None:
            raise ConfigError(
                f"method.adapter = {self.adapter_text!r}: the head's earlier rows do not train, so that there is "
                "nothing to hold in place; name another adapter, or method.name = fedavg"
            )

    def task_report(self, task: Task) -> tuple[Pass, ...]:
        """F_i of what trains in the adapter, under the merged model."""
        return (fisher_pass(task, self.trains(Phase(0, REPORT, task, 1, 0)), self.fisher),)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the model; for training anchor and F as references, for the report the head rows that F needs."""
        sent = super().broadcast(state, phase)
        if phase.kind == REPORT:
            return Broadcast({**sent.arrays, **Modules.of(state).head_rows(phase.task.index)}, sent.references)
        return Broadcast(sent.arrays, {**sent.references, **state.get(MEMORY, {})})

    def merge_report(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The new anchor, and the running F."""
        old, module = state.get(MEMORY, {}), Modules.trained(state).module
        arrays = {name: a for name, a in module.items() if fisher_of(name) in sums}
        fisher = {n: self.gamma * old.get(FISHER + n, 0) + sums[fisher_of(n)] / sums[EXAMPLES] for n in arrays}
        memory = {FISHER + n: f for n, f in fisher.items()} | {ANCHOR + n: a for n, a in arrays.items()}
        return {**state, MEMORY: as_float32(memory)}

    def loss(self, step: Step) -> Tensor:
        """Masked cross-entropy, and the penalty; there is none in the first task."""
        leaves = {name: leaf for name, leaf in step.model.arrays.items() if FISHER + name in step.references}
        squares = {name: (leaf - step.constant(ANCHOR + name)).square() for name, leaf in leaves.items()}
        penalty = sum((step.constant(FISHER + name) * square).sum() for name, square in squares.items())
        return step.cross_entropy() + self.strength / 2 * penalty
