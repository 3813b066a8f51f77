"""PILoRA: a LoRA pair for each task, away from earlier ones, and prototypes that are learned and weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.merging.prototypes import reweighted
from fcil.method import Backbone, Broadcast, ClientUpdate, Local, Modules, Pass, Phase, Step, head
from fcil.model.lora import DELTA, A, B, Lora, layers_of
from fcil.options import Option
from fcil.statistics.features import FeatureSums, class_sums, counts

from ._lora import LoraMethod

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PILoRA"]

PAST, DRAWN = "past", "drawn"
"""The state's groups of earlier tasks' pairs, among the references before a slash, and of the prototypes of all classes
as they were drawn, (classes, width): one array, of the same name among the references."""
SPREAD = 0.1
"""Standard deviation of a prototype's entries before it has trained."""


def _earlier_changes(references: Arrays) -> dict[str, np.ndarray]:
    """Layer's change by the pairs of all earlier tasks, sum B_j A_j, (out, in), frozen beside the pair that trains."""
    changes: dict[str, np.ndarray] = {}
    for first in layers_of(references):
        layer = first.split("/", 2)[2] + DELTA
        changes[layer] = changes.get(layer, 0) + references[first + B] @ references[first + A]
    return changes


@dataclass(frozen=True, kw_only=True)
class PILoRA(LoraMethod):
    """Train a LoRA pair a task, and prototypes that the server weighs.

    Guo et al., "PILoRA: prototype guided incremental LoRA for federated class-incremental learning", ECCV 2024, arXiv
    2401.02094, after its public code. W = W0 + sum_(j <= t) B_j A_j, of which the task's pair trains, and the
    prototypes p_c of its classes, which begin at 0.1 N(0, 1). With D_c = |h(x) - p_c| / sqrt(d) clients minimise

        cross-entropy of -D / T over all classes seen (DCE) + pull mean D_y (PL)
        + orthogonality sum_(j < t) |A_t A_j^T|_1 + sparsity |A_t|_1,     |.|_1 the sum of absolute values

    and send the mean feature f_kc of each class c that they have. The server takes the mean of pairs, and of p_kc

        s_k = 1 / sum_j |p_kc - f_jc| over clients j that have c
        w = softmax(sharpness minmax_k(s)),  p_c = sum_k w_k p_kc

    An image's class is that of the nearest prototype. Sent up: the pair, prototypes, feature sums and numbers, 2 d + 1
    floats a class of the task; down pair, prototypes and earlier pairs, these once. Kept by a client: nothing;
    by the server all pairs and prototypes. Differs from the paper: one pair on qkv of the first block (`targets`) in
    the place of one on q and one on v; AdamW of constant rates in place of Adam on a cosine, whose rates for CIFAR-100
    were 1e-5 for pairs (`lora_lr`) and 2e-3 for prototypes (`prototype_lr`), over 2,100 steps a task: with fewer steps
    prototypes want more; features under the client's trained model, where public code takes those along the way. There
    distances go to prototypes of classes to come too, which have never trained (`classes = "all"`); here to those of
    the classes seen. Where all s_k are equal, or nobody has the class, clients count alike. `combine = "code"` is what
    public code runs: a pair trains alone, on W0, and (B_1 + B_t)(A_1 + A_t) is evaluated; it also has `sparsity` =
    0.01, which the paper's total loss lacks. With `orthogonality` = 0 earlier pairs are only added. Literal
    transcription: `tests/reference_baselines3.py`.
    """

    rank: Annotated[int, Option("rank of every pair", low=1)] = 4
    targets: Annotated[tuple[str, ...], Option("glob patterns of the linear layers that get a pair")] = (
        "blocks.0.attn.qkv",
    )
    temperature: Annotated[float, Option("T, by which distances are divided", above=0)] = 1.0
    pull: Annotated[float, Option("weight of the distance to a sample's own prototype", low=0)] = 0.001
    orthogonality: Annotated[float, Option("weight of the products with earlier tasks' A", low=0)] = 0.5
    sparsity: Annotated[float, Option("weight of |A|_1; 0.01 in public code", low=0)] = 0.0
    sharpness: Annotated[float, Option("by which normalised similarities are multiplied in the softmax", low=0)] = 5.0
    prototype_lr: Annotated[float, Option("learning rate of prototypes; 0: train.lr", low=0)] = 0.0
    lora_lr: Annotated[float, Option("learning rate of pairs; 0: train.lr", low=0, was=0.0)] = 1e-5
    classes: Annotated[
        Literal["seen", "all"],
        Option("classes that a sample's own is told from in training: those seen, or also those to come"),
    ] = "seen"
    combine: Annotated[
        Literal["sum", "code"], Option("sum_j B_j A_j, or what public code runs: the first pair and the last, summed")
    ] = "sum"

    @property
    def adapter(self) -> Lora:
        """A pair on each of the target layers."""
        return Lora(self.rank, self.targets)

    @property
    def keeps_modules(self) -> bool:
        """Every task has a pair of its own."""
        return True

    @property
    def additive(self) -> bool:
        """Weights of prototypes need every client's."""
        return False

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The prototypes of all classes seen are sent; they stand in the place of the head's rows."""
        return tuple(range(phase.task.index + 1))

    # ---- client half -------------------------------------------------------------------------------------------------

    def statistic(self, phase: Phase) -> FeatureSums:
        """Sums and numbers of features of the task's classes, sent as float32."""
        return FeatureSums(phase.task, gram=False, wire="float32")

    def local(self, phase: Phase) -> Local:
        """Train the pair and the task's prototypes beside earlier pairs; then sum features by class."""
        prototypes = head.weight(phase.task.index)
        rates = {prototypes: self.prototype_lr} | dict.fromkeys(self.trains(phase), self.lora_lr)
        rates = {pattern: rate for pattern, rate in rates.items() if rate}
        local = Local((*self.trains(phase), prototypes), lr=rates, passes=(Pass((self.statistic(phase),)),))
        return replace(local, frozen=_earlier_changes) if self.combine == "sum" else local

    def loss(self, step: Step) -> Tensor:
        """DCE and PL over all classes seen, and what keeps A away from earlier ones and sparse."""
        import torch
        from torch.nn import functional as F

        arrays, features = step.model.arrays, step.features
        rows = [arrays[head.weight(task)] for task in self.head_tasks(step.phase)]
        if self.classes == "all":
            rows.append(step.constant(DRAWN)[step.phase.task.seen :])
        prototypes = torch.cat(rows)
        squares = (features[:, None] - prototypes).square().mean(2)
        distances = squares.clamp_min(1e-12).sqrt()
        loss = F.cross_entropy(-distances / self.temperature, step.labels)
        loss = loss + self.pull * distances.gather(1, step.labels[:, None]).mean()
        for name in arrays:
            if self.sparsity and name.endswith(A):
                loss = loss + self.sparsity * arrays[name].abs().sum()
        for name in step.references if self.orthogonality else ():
            if name.endswith(A):
                factor = arrays[name.split("/", 2)[2]]
                loss = loss + self.orthogonality * (factor @ step.constant(name).T).abs().sum()
        return loss

    # ---- server half -------------------------------------------------------------------------------------------------

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Make room for the prototypes of all classes of the run, where those to come take part from the start."""
        room = {DRAWN: {DRAWN: np.zeros((classes, backbone.width), np.float32)}} if self.classes == "all" else {}
        return {**super().init(backbone, classes, seed), **room}

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """A new pair, and prototypes of the new classes; the first task draws those of all where all take part."""
        task, rng = phase.task, phase.generator("prototypes")
        if self.classes == "all" and not Modules.of(state).head:
            state = {**state, DRAWN: {DRAWN: rng.normal(0, SPREAD, state[DRAWN][DRAWN].shape).astype(np.float32)}}
        modules = Modules.of(super().begin(state, phase, backbone))
        if self.classes == "all":
            drawn = state[DRAWN][DRAWN][task.first : task.seen]
        else:
            drawn = rng.normal(0, SPREAD, (task.size, backbone.width)).astype(np.float32)
        rows = {head.weight(task.index): drawn, head.bias(task.index): np.zeros(task.size, np.float32)}
        return modules.with_module(modules.module, rows)

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """The task's pair and prototypes; as references, each sent once, earlier pairs and prototypes as drawn."""
        sent, past = super().broadcast(state, phase), Modules.of(state).past
        return replace(sent, references={**{f"{PAST}/{name}": a for name, a in past.items()}, **state.get(DRAWN, {})})

    def objection(self, phase: Phase, broadcast: Broadcast, update: ClientUpdate) -> str | None:
        """Say why no samples have these sums."""
        return self.statistic(phase).objection(update.statistics, update.num_examples)

    def merge(self, state: State, phase: Phase, updates: Sequence[ClientUpdate]) -> State:
        """The mean of pairs, weighted by examples, and weighed prototypes."""
        state = self.merge_sums(state, phase, self.sums(phase, self.broadcast(state, phase), updates))
        task, here = phase.task.index, [u for u in updates if u.num_examples > 0]
        prototypes = np.stack([u.arrays[head.weight(task)] for u in here]).astype(np.float64)
        numbers = np.stack([u.statistics[counts(task)] for u in here]).astype(np.float64)
        totals = np.stack([u.statistics[class_sums(task)] for u in here]).astype(np.float64)
        means = totals / np.maximum(numbers, 1)[..., None]
        new = [
            reweighted(prototypes[:, c], means[numbers[:, c] > 0, c], self.sharpness) for c in range(phase.task.size)
        ]
        return Modules.of(state).replaced({head.weight(task): np.stack(new).astype(np.float32)})

    def deploy(self, state: State, phase: Phase) -> Arrays:
        """The pairs together, and rows p_c with biases -|p_c|^2 / 2: the highest score is the nearest prototype."""
        tasks, modules = Modules.of(state).all_tasks, Modules.of(state)
        combined: dict[str, np.ndarray] = {}
        for layer in layers_of(modules.module):
            factors = [(pair[layer + B], pair[layer + A]) for pair in tasks]
            if self.combine == "code":
                ends = factors if len(factors) == 1 else [factors[0], factors[-1]]
                factors = [(sum(b for b, _ in ends[1:]) + ends[0][0], sum(a for _, a in ends[1:]) + ends[0][1])]
            combined[layer + B] = np.concatenate([b for b, _ in factors], 1)
            combined[layer + A] = np.concatenate([a for _, a in factors])
        rows = {head.weight(t): modules.head[head.weight(t)] for t in self.head_tasks(phase)}
        biases = {head.bias(t): -np.square(rows[head.weight(t)]).sum(1) / 2 for t in self.head_tasks(phase)}
        return {**combined, **rows, **biases}
