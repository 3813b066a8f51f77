"""LoRM: closed-form merging of LoRA factors over clients, round by round, and over tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State, as_float32, symmetric_whole, total, weighted_mean
from fcil.merging.matching import match, match_diagonal, merge_tasks_diagonal
from fcil.method import REPORT, TRAIN, Backbone, Broadcast, ClientUpdate, Kind, Local, Method, Pass, Phase, Task
from fcil.model import head
from fcil.model.lora import A, B, Lora, layers_of
from fcil.options import Option
from fcil.statistics import HeadGram, InputEnergy, ProjectedGram, head_gram, input_energy, projected_gram

__all__ = ["LoRM"]


def _of_task(task: int, name: str) -> str:
    return f"task{task}/{name}"


def _past(arrays: Arrays) -> list[dict[str, np.ndarray]]:
    """Earlier tasks' arrays, task by task, from names that begin with `task<t>/`."""
    tasks: dict[int, dict[str, np.ndarray]] = {}
    for key, a in arrays.items():
        task, _, name = key.removeprefix("task").partition("/")
        tasks.setdefault(int(task), {})[name] = a
    return [tasks[t] for t in sorted(tasks)]


def _pairs(modules: Sequence[Arrays], layer: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(m[layer + B], m[layer + A]) for m in modules]


def mean_of_tasks(current: Arrays, past: Arrays) -> Arrays:
    """W0 + the mean of the tasks' B_t A_t, the current one included, as one pair of rank T r per layer."""
    modules = [*_past(past), current]
    out: dict[str, np.ndarray] = {}
    for layer in layers_of(current):
        bs, as_ = zip(*_pairs(modules, layer), strict=True)
        out[layer + A] = np.concatenate(as_, 0) / np.float32(len(modules))
        out[layer + B] = np.concatenate(bs, 1)
    return out


@dataclass(frozen=True, kw_only=True)
class LoRM(Method):
    """Response matching of LoRA factors, one factor a round, Gram-weighted over tasks.

    Salami et al., "Closed-form merging of parameter-efficient modules for Federated Continual Learning", ICLR 2025,
    arXiv 2410.17961. Rounds 1, 3, ... of a task train B (A shared), rounds 2, 4, ... train A (B shared); the head's
    rows train in all of them. Each task has a module of its own, trained on W0 alone.
    """

    rank: Annotated[int, Option("rank of every layer's LoRA pair", low=1)] = 16
    gram_b: Annotated[
        Literal["exact", "diagonal"], Option("P_i = A G_i A^T of a B round, with the whole Gram or its diagonal")
    ] = "diagonal"
    gram_a: Annotated[Literal["diagonal"], Option("the Gram of an A round")] = "diagonal"
    gram_model: Annotated[
        Literal["deployed", "own"],
        Option("Grams are taken through W0 + the mean of the tasks' modules, or through the client's own W0 + B A"),
    ] = "deployed"
    gram_passes: Annotated[int, Option("passes over the data in which Grams are summed", low=1)] = 1
    head_gram_shrink: Annotated[
        float,
        Option("off-diagonals of the head's Gram are multiplied by it: 1 is RegMean, 0 its diagonal", low=0, high=1),
    ] = 0.5

    @property
    def adapter(self) -> Lora:
        """A pair on qkv, proj, fc1 and fc2 of every block."""
        return Lora(self.rank)

    @staticmethod
    def trains_b(phase: Phase) -> bool:
        """Whether this round trains B: every task begins with B."""
        return phase.round % 2 == 1

    # ---- client half -------------------------------------------------------------------------------------------------

    def local(self, phase: Phase) -> Local:
        """Train one factor and the head's new rows; report the Grams that merging them takes."""
        task = phase.task.index
        if phase.kind == "report":
            return Local(passes=(self._pass(InputEnergy()),))
        gram = ProjectedGram(self.gram_b) if self.trains_b(phase) else InputEnergy()
        factor = B if self.trains_b(phase) else A
        return Local(
            trains=(f"*{factor}", head.block(task)), passes=(self._pass(gram, HeadGram(task, self.head_gram_shrink)),)
        )

    def _pass(self, *statistics: ProjectedGram | InputEnergy | HeadGram) -> Pass:
        """Eval mode, training augmentation, through the model that `gram_model` names."""
        if self.gram_model == "own":
            return Pass(statistics, transform="train", repeats=self.gram_passes)
        return Pass(statistics, mean_of_tasks, "train", self.gram_passes)

    # ---- server half -------------------------------------------------------------------------------------------------

    def phases(self, task: Task, rounds: int) -> tuple[Kind, ...]:
        """The rounds, and a report under the merged model at the task's end."""
        return (TRAIN,) * rounds + (REPORT,)

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """A fresh module and the new classes' head rows."""
        fresh = self.adapter.initial(backbone, phase.generator("lora"))
        rows = head.new_rows(phase.task, backbone.width, phase.generator("head"))
        return {**state, "module": fresh, "head": {**state.get("head", {}), **rows}}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The current module; for training the current head rows; for deployed Grams the earlier tasks' modules."""
        rows = {name: state["head"][name] for name in (head.weight(phase.task.index), head.bias(phase.task.index))}
        past = state.get("past", {}) if self.gram_model == "deployed" else {}
        return Broadcast({**state["module"], **(rows if phase.kind == "train" else {})}, past)

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """Match responses over the clients, or close the task and keep its module with its Grams."""
        if phase.kind == "report":
            return self._close_task(state, phase.task.index, [u.statistics for u in updates])
        factors = {}
        for layer in layers_of(state["module"]):
            name = layer + (B if self.trains_b(phase) else A)
            start, thetas = state["module"][name], [u.arrays[name] for u in updates]
            if self.trains_b(phase):
                grams = [symmetric_whole(u.statistics[projected_gram(layer)]) for u in updates]
                factors[name] = match(start, thetas, grams)
            else:
                factors[name] = match_diagonal(start, thetas, [u.statistics[input_energy(layer)] for u in updates])
        rows = self._merge_head(state["head"], phase.task.index, updates)
        return {
            **state,
            "module": {**state["module"], **as_float32(factors)},
            "head": {**state["head"], **as_float32(rows)},
        }

    def _merge_head(self, heads: Arrays, task: int, updates: Sequence[ClientUpdate]) -> Mapping[str, np.ndarray]:
        """RegMean with shrunk Grams for the rows; the biases' mean weighted by examples."""
        name = head.weight(task)
        thetas, grams = [u.arrays[name] for u in updates], [u.statistics[head_gram(task)] for u in updates]
        if self.head_gram_shrink == 0:
            rows = match_diagonal(heads[name], thetas, grams)
        else:
            rows = match(heads[name], thetas, [symmetric_whole(g) for g in grams])
        bias = weighted_mean(
            [{head.bias(task): u.arrays[head.bias(task)]} for u in updates], [u.num_examples for u in updates]
        )
        return {name: rows, **bias}

    def _close_task(self, state: State, task: int, reports: Sequence[Arrays]) -> State:
        kept = {_of_task(task, name): a for name, a in state["module"].items()}
        energy = {_of_task(task, name): g for name, g in total(reports).items()}
        return {**state, "past": {**state.get("past", {}), **kept}, "gram": {**state.get("gram", {}), **energy}}

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """W0 + (sum_t B_t A_t G_t)(sum_t G_t)^+ once the task is closed; between its rounds W0 + the tasks' mean."""
        if phase.kind == "train":
            return {**mean_of_tasks(state["module"], state.get("past", {})), **state["head"]}
        modules, energies = _past(state["past"]), _past(state["gram"])
        merged: dict[str, np.ndarray] = {}
        for layer in layers_of(state["module"]):
            grams = [energy[input_energy(layer)] for energy in energies]
            merged[layer + B], merged[layer + A] = merge_tasks_diagonal(_pairs(modules, layer), grams)
        return {**as_float32(merged), **state["head"]}
