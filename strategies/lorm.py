"""LoRM: merge LoRA factors in closed form, one factor a round, and the tasks' modules at each task's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fcil.arrays import Arrays, State, added
from fcil.merging.matching_problems import Problem, match_all, mean_problem, sum_all
from fcil.merging.response_matching import Moments
from fcil.method import (
    REPORT,
    TRAIN,
    Broadcast,
    ClientUpdate,
    GramLayout,
    Kind,
    Local,
    Modules,
    Pass,
    Phase,
    Statistic,
    Task,
    head,
    local_model,
)
from fcil.model.lora import A, B, Lora, layers_of
from fcil.options import Option
from fcil.statistics.gram_form import FORMS, GramForm
from fcil.statistics.inputs import HeadGram, ProjectedGram, head_gram, projected_gram

from ._idle import refuse_idle
from ._lora import FACTORS, LoraMethod
from ._task_grams import close_task, mean_of_modules, mean_of_tasks, merge_closed_tasks

__all__ = ["LoRM"]


@dataclass(frozen=True, kw_only=True)
class LoRM(LoraMethod):
    """Match the clients' responses, one LoRA factor at a time.

    Salami et al., "Closed-form merging of parameter-efficient modules for Federated Continual Learning", ICLR 2025,
    arXiv 2410.17961. With X_i the inputs of a layer at client i and G_i = X_i X_i^T, a round minimises
    sum_i || (B A - B_i A_i) X_i ||^2 over the one factor that has trained; the other is shared:

        rounds 1, 3, ...    B = (sum_i B_i P_i)(sum_i P_i)^+,   P_i = A G_i A^T
        rounds 2, 4, ...    A = (sum_i A_i G_i)(sum_i G_i)^+
        head's new rows     W = (sum_i W_i H_i)(sum_i H_i)^+,   H_i the Gram of the features; biases: weighted means
        end of a task       dW = (sum_t B_t A_t G_t)(sum_t G_t)^+,  G_t summed over clients

    Every task has a pair of its own, trained on W0 alone; between rounds W0 + the mean of the tasks' pairs is deployed.
    Grams are diagonals unless `gram_a` and `gram_b` say otherwise. Literal transcription: `tests/reference.py`.
    """

    refused: ClassVar[Mapping[str, str]] = {
        "adapter": "LoRM solves for one factor of a product B A; a kernel of factors, or a whole weight, has no such "
        "equation (for whole weights the match of responses is regmean). LoRA pairs it trains anyway: leave it out"
    }

    train_order: Annotated[
        Literal["BA", "AB", "B", "A"],
        Option("factors that train in rounds 1, 2, ... of a task; the first starts at zero"),
    ] = "BA"
    lr_a: Annotated[float | None, Option("learning rate of A; train.lr unless given", above=0)] = None
    lr_b: Annotated[float | None, Option("learning rate of B; train.lr unless given", above=0)] = None
    gram_b: Annotated[Literal["exact", "diagonal"], Option("P_i of a B round: with all of G_i, or its diagonal")] = (
        "diagonal"
    )
    gram_a: Annotated[
        str, Option("G_i of A rounds and over tasks: its diagonal, all of it, or k frequent directions", forms=FORMS)
    ] = "diagonal"
    gram_shrink: Annotated[
        float,
        Option("factor of off-diagonals of G_i, in every round that uses any: 1 paper, 0 diagonal", low=0, high=1),
    ] = 1.0
    gram_model: Annotated[
        Literal["deployed", "own"], Option("Grams through W0 + the mean of the tasks, or the client's own W0 + B A")
    ] = "deployed"
    gram_passes: Annotated[int, Option("passes over the data in which Grams are summed", low=1)] = 1
    head_gram_shrink: Annotated[
        float, Option("factor of off-diagonals of the head's Gram: 1 is RegMean, 0 its diagonal", low=0, high=1)
    ] = 0.5
    task_merge: Annotated[Literal["gram", "mean"], Option("tasks' pairs are weighted by Grams, or averaged")] = "gram"

    def __post_init__(self) -> None:
        order = f'train_order = "{self.train_order}" never trains it'
        idle = {f"lr_{factor.lower()}": order for factor in FACTORS if factor not in self.train_order}
        if self.gram_a == self.gram_b == "diagonal":
            idle["gram_shrink"] = "gram_a and gram_b are diagonals, and have no off-diagonals to shrink"
        refuse_idle(self, idle)

    @property
    def keeps_modules(self) -> bool:
        """Every task has a pair of its own."""
        return True

    @property
    def gram(self) -> GramForm:
        """The form of G_i in A rounds and over tasks."""
        return GramForm.parse(self.gram_a, self.gram_shrink)

    @property
    def adapter(self) -> Lora:
        """The factor that trains in a task's first round starts at zero."""
        return Lora(self.rank, zero=FACTORS[self.train_order[0]])

    def factor(self, phase: Phase) -> str:
        """The factor that trains in this round: every task begins with the first of `train_order`."""
        return FACTORS[self.train_order[(phase.round - 1) % len(self.train_order)]]

    def local(self, phase: Phase) -> Local:
        """Train one factor and the head's new rows; report the Grams that merging them takes."""
        if phase.kind == REPORT:
            return Local(passes=(self._pass(self.gram.statistic),))
        task, factor = phase.task.index, self.factor(phase)
        gram = ProjectedGram(self.gram_b, self.gram_shrink) if factor == B else self.gram.statistic
        rate = self.lr_b if factor == B else self.lr_a
        return Local(
            trains=(f"*{factor}", head.block(task)),
            lr={f"*{factor}": rate} if rate else {},
            passes=(self._pass(gram, HeadGram(task, self.head_gram_shrink)),),
        )

    def _pass(self, *statistics: Statistic) -> Pass:
        """Eval mode, training augmentation, through the model that `gram_model` names."""
        model = mean_of_tasks if self.gram_model == "deployed" else local_model
        return Pass(statistics, model, "train", self.gram_passes)

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report under the merged model at the task's end where tasks are weighted by Grams."""
        return (TRAIN,) * rounds + ((REPORT,) if self.task_merge == "gram" else ())

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The current module; for training the current head rows; for deployed Grams the earlier tasks' modules."""
        past = Modules.of(state).past if self.gram_model == "deployed" else {}
        return Broadcast(super().broadcast(state, phase).arrays, past)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Moments of every matrix that trained, summed over clients; in a report sum_i G_i of every layer."""
        if phase.kind == REPORT:
            layers = layers_of(broadcast.arrays)
            return {layer + A: added(self.gram.read(u.statistics, layer) for u in updates) for layer in layers}
        names = self.local(phase).trained(list(broadcast.arrays))
        return sum_all({name: self._problem(name, phase, broadcast, updates) for name in names}, self.gram.whole)

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramLayout]:
        """Which sums are Grams: in a report all; in a round one among the moments of every matrix that trained."""
        if phase.kind == REPORT:
            return {layer + A: self._layout(layer + A) for layer in layers_of(broadcast.arrays)}
        return {Moments.gram_name(n): self._layout(n) for n in self.local(phase).trained(list(broadcast.arrays))}

    def _layout(self, name: str) -> GramLayout:
        return "half" if self._whole(name) else "diagonal"

    def _whole(self, name: str) -> bool:
        """Tell whether the Grams that match an array are matrices; otherwise they are diagonals, as those of biases."""
        if name.endswith(A):
            return self.gram.whole
        return name.endswith(B) or (name.endswith(".weight") and self.head_gram_shrink > 0)

    def _problem(self, name: str, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Problem:
        """The matching problem of one matrix: what the clients made of it, and the Grams of the inputs it sees."""
        start, thetas, task = broadcast.arrays[name], [u.arrays[name] for u in updates], phase.task.index
        if name == head.bias(task):
            return mean_problem(start, thetas, [u.num_examples for u in updates])
        if name.endswith(A):
            layer, gram = name.removesuffix(A), self.gram
            return Problem(start, thetas, (gram.read(u.statistics, layer) for u in updates), self._whole(name))
        key = projected_gram(name.removesuffix(B)) if name.endswith(B) else head_gram(task)
        return Problem(start, thetas, (u.statistics[key] for u in updates), self._whole(name))

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Match responses over the clients, or close the task and keep its Grams."""
        if phase.kind == REPORT:
            return close_task(state, phase.task.index, sums, self.gram.whole)
        sent = self.broadcast(state, phase).arrays
        starts = {name: sent[name] for name in self.local(phase).trained(list(sent))}
        return Modules.of(state).replaced(match_all(starts, sums, self.gram.whole))

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The merge over tasks once the task is closed; between its rounds W0 + the mean of the tasks' pairs."""
        modules = Modules.of(state)
        if phase.kind == TRAIN:
            return {**mean_of_modules(modules.all_tasks), **modules.head}
        return {**merge_closed_tasks(state, self.gram.whole), **modules.head}
