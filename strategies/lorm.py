"""LoRM: closed-form merging of LoRA factors over clients, round by round, and over tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import numpy as np

from fcil.arrays import Arrays, State, added, as_float32
from fcil.merging import packed
from fcil.merging.response_matching import Moments, merge_tasks, moments, solve
from fcil.method import (
    REPORT,
    TRAIN,
    Broadcast,
    ClientUpdate,
    GramForm,
    Kind,
    Local,
    Pass,
    Phase,
    Statistic,
    Task,
    head,
    of_task,
    split_tasks,
)
from fcil.model.lora import A, B, Lora, layers_of
from fcil.options import Option
from fcil.statistics.inputs import (
    HeadGram,
    InputEnergy,
    InputGram,
    InputSketch,
    ProjectedGram,
    gram_of_sketch,
    head_gram,
    input_energy,
    input_gram,
    input_sketch,
    projected_gram,
)
from fcil.threads import map_in_threads

from ._lora import LoraMethod

__all__ = ["LoRM"]

Result = TypeVar("Result")
RESPONSE = ".response"
"""A_t G_t, beside the diagonal of G_t under the name of A_t."""


def mean_of_tasks(current: Arrays, past: Arrays) -> Arrays:
    """W0 + the mean of the tasks' B_t A_t, the current one included, as one pair of rank T r per layer."""
    modules = [*split_tasks(past), current]
    out: dict[str, np.ndarray] = {}
    for layer in layers_of(current):
        out[layer + A] = np.concatenate([m[layer + A] for m in modules], 0) / np.float32(len(modules))
        out[layer + B] = np.concatenate([m[layer + B] for m in modules], 1)
    return out


@dataclass(frozen=True, kw_only=True)
class LoRM(LoraMethod):
    """Response matching of LoRA factors, one factor a round, Gram-weighted over tasks.

    Salami et al., "Closed-form merging of parameter-efficient modules for Federated Continual Learning", ICLR 2025,
    arXiv 2410.17961. Rounds 1, 3, ... of a task train B (A shared), rounds 2, 4, ... train A (B shared); the head's
    rows train in all of them. Each task has a module of its own, trained on W0 alone.
    """

    train_order: Annotated[
        Literal["BA", "AB", "B", "A"],
        Option("factors that train in rounds 1, 2, 3, ... of a task, over and over; the first one starts at zero"),
    ] = "BA"
    lr_a: Annotated[float | None, Option("learning rate of A; train.lr unless given", above=0)] = None
    lr_b: Annotated[float | None, Option("learning rate of B; train.lr unless given", above=0)] = None
    gram_b: Annotated[
        Literal["exact", "diagonal"], Option("P_i = A G_i A^T of a B round, with the whole Gram or its diagonal")
    ] = "diagonal"
    gram_a: Annotated[
        str,
        Option(
            "G_i of an A round and of the merge over tasks: its diagonal, all of it, or k rows of frequent directions",
            forms=("diagonal", "full", "sketch:<k>"),
        ),
    ] = "diagonal"
    gram_shrink: Annotated[
        float,
        Option(
            "off-diagonals of whole or sketched G_i are multiplied by it: 1 is the paper, 0 the diagonal", low=0, high=1
        ),
    ] = 1.0
    gram_model: Annotated[
        Literal["deployed", "own"],
        Option("Grams are taken through W0 + the mean of the tasks' modules, or through the client's own W0 + B A"),
    ] = "deployed"
    gram_passes: Annotated[int, Option("passes over the data in which Grams are summed", low=1)] = 1
    head_gram_shrink: Annotated[
        float,
        Option("off-diagonals of the head's Gram are multiplied by it: 1 is RegMean, 0 its diagonal", low=0, high=1),
    ] = 0.5
    task_merge: Annotated[
        Literal["gram", "mean"], Option("tasks' modules are weighted by their Grams, or simply averaged")
    ] = "gram"

    @property
    def keeps_modules(self) -> bool:
        """Every task has a pair of its own."""
        return True

    @property
    def adapter(self) -> Lora:
        """The factor that trains in a task's first round starts at zero."""
        return Lora(self.rank, zero={"A": A, "B": B}[self.train_order[0]])

    def factor(self, phase: Phase) -> str:
        """The factor that trains in this round: every task begins with the first of `train_order`."""
        letter = self.train_order[(phase.round - 1) % len(self.train_order)]
        return {"A": A, "B": B}[letter]

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Train one factor and the head's new rows; report the Grams that merging them takes."""
        task, factor = phase.task.index, self.factor(phase)
        if phase.kind == "report":
            return Local(passes=(self._pass(self._input_statistic()),))
        gram = ProjectedGram(self.gram_b) if factor == B else self._input_statistic()
        rate = self.lr_b if factor == B else self.lr_a
        return Local(
            trains=(f"*{factor}", head.block(task)),
            lr={f"*{factor}": rate} if rate else {},
            passes=(self._pass(gram, HeadGram(task, self.head_gram_shrink)),),
        )

    def _input_statistic(self) -> Statistic:
        if self.gram_a == "diagonal":
            return InputEnergy()
        return InputGram() if self.gram_a == "full" else InputSketch(int(self.gram_a.partition(":")[2]))

    def _pass(self, *statistics: Statistic) -> Pass:
        """Eval mode, training augmentation, through the model that `gram_model` names."""
        if self.gram_model == "own":
            return Pass(statistics, transform="train", repeats=self.gram_passes)
        return Pass(statistics, mean_of_tasks, "train", self.gram_passes)

    # ---- server half -------------------------------------------------------------------------------------------------

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report under the merged model at the task's end where tasks are weighted by Grams."""
        return (TRAIN,) * rounds + ((REPORT,) if self.task_merge == "gram" else ())

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The current module; for training the current head rows; for deployed Grams the earlier tasks' modules."""
        past = state.get("past", {}) if self.gram_model == "deployed" else {}
        return Broadcast(super().broadcast(state, phase).arrays, past)

    @property
    def additive(self) -> bool:
        """The normal equations are sums over clients."""
        return True

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """Over the clients: the moments of every matrix that trained; in a report G_i of every layer."""
        if phase.kind == "report":
            names = [layer + A for layer in layers_of(broadcast.arrays)]
            return {name: added(self._gram(u, name, phase) for u in updates) for name in names}
        names = self.local(phase).trained(list(broadcast.arrays))
        each = self._over_layers(lambda name: self._moments(name, phase, broadcast, updates), names)
        return {key: a for name, sums in zip(names, each, strict=True) for key, a in sums.arrays(name).items()}

    def _over_layers(self, work: Callable[[str], Result], names: Sequence[str]) -> list[Result]:
        """Side by side where Grams are large; the others' rounds consist of too many short steps to gain by it."""
        return map_in_threads(work, names) if self.gram_a != "diagonal" else list(map(work, names))

    def _moments(self, name: str, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Moments:
        start, thetas = broadcast.arrays[name], [u.arrays[name] for u in updates]
        if name == head.bias(phase.task.index):  # its mean, weighted by examples, is a match with constant energy
            counts = [np.full(start.shape, u.num_examples) for u in updates]
            return moments(start[None], [theta[None] for theta in thetas], counts, whole=False)
        return moments(start, thetas, (self._gram(u, name, phase) for u in updates), self._whole(name))

    def _whole(self, name: str) -> bool:
        """Whether the Grams that match an array are matrices (as upper halves) or diagonals."""
        if name.endswith(A):
            return self.gram_a != "diagonal"
        return name.endswith(B) or self.head_gram_shrink > 0

    def _gram(self, update: ClientUpdate, name: str, phase: Phase) -> np.ndarray:
        """What one client says of the inputs that a matrix sees."""
        statistics = update.statistics
        if name == head.weight(phase.task.index):
            return statistics[head_gram(phase.task.index)]
        if name.endswith(B):
            return statistics[projected_gram(name.removesuffix(B))]
        layer = name.removesuffix(A)
        if self.gram_a == "diagonal":
            return statistics[input_energy(layer)]
        if self.gram_a == "full":
            gram = statistics[input_gram(layer)]
        else:
            gram = gram_of_sketch(statistics[input_sketch(layer)], statistics[input_energy(layer)])
        return gram if self.gram_shrink == 1 else packed.shrunk(gram, self.gram_shrink)

    def gram_sums(self, phase: Phase, broadcast: Broadcast) -> Mapping[str, GramForm]:
        """The Gram among the moments of every matrix that trained; in a report all sums."""
        if phase.kind == "report":
            return {layer + A: self._form(layer + A) for layer in layers_of(broadcast.arrays)}
        forms = {name: self._form(name) for name in self.local(phase).trained(list(broadcast.arrays))}
        forms[head.bias(phase.task.index)] = "diagonal"
        return {Moments.gram_name(name): form for name, form in forms.items()}

    def _form(self, name: str) -> GramForm:
        return "half" if self._whole(name) else "diagonal"

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """Match responses over the clients, or close the task and keep its Grams."""
        if phase.kind == "report":
            return self._close_task(state, phase.task.index, sums)
        merged = {group: dict(arrays) for group, arrays in state.items()}
        sent = self.broadcast(state, phase).arrays
        names = self.local(phase).trained(list(sent))
        thetas = self._over_layers(lambda name: solve(np.atleast_2d(sent[name]), Moments.read(sums, name)), names)
        for name, theta in zip(names, thetas, strict=True):
            group = "head" if name in state["head"] else "module"
            merged[group][name] = theta.astype(np.float32).reshape(sent[name].shape)
        return merged

    def _close_task(self, state: State, task: int, grams: Arrays) -> State:
        """Keep diag(G_t) and, of whole Grams, A_t G_t and the running sum."""
        kept, running = dict(state.get("gram", {})), dict(state.get("gram_sum", {}))
        for name, gram in grams.items():
            whole = self._whole(name)
            kept[of_task(task, name)] = packed.diagonal(gram) if whole else gram
            if whole:
                kept[of_task(task, name + RESPONSE)] = packed.times(state["module"][name], gram)
                running[name] = running[name] + gram if name in running else gram
        sums = {"gram_sum": running} if running else {}
        return {**state, "gram": kept, **sums}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """W0 + (sum_t B_t A_t G_t)(sum_t G_t)^+ once the task is closed; between its rounds W0 + the tasks' mean."""
        past = state.get("past", {})
        if phase.kind == "train":
            return {**mean_of_tasks(state["module"], past), **state["head"]}
        modules, grams = [*split_tasks(past), state["module"]], split_tasks(state["gram"])
        merged: dict[str, np.ndarray] = {}
        for layer in layers_of(state["module"]):
            pairs = [(m[layer + B], m[layer + A]) for m in modules]
            energies = [g[layer + A] for g in grams]
            responses = [g[layer + A + RESPONSE] for g in grams if self._whole(layer + A)]
            merged[layer + B], merged[layer + A] = merge_tasks(
                pairs, energies, responses, state.get("gram_sum", {}).get(layer + A)
            )
        return {**as_float32(merged), **state["head"]}
