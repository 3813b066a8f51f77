"""LANDER's anchors without its generator: features are mapped near a fixed point of their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fcil.arrays import Arrays, State
from fcil.method import EXAMPLES, SCORES, Backbone, Broadcast, ClientUpdate, Phase, Step
from fcil.options import Option

from ._adapters import AdapterAveraging, of_one_weight
from ._anchors import check_frame, frame, read_anchors
from ._teacher import TEACHER, distillation, old_outputs, old_tasks, teacher_of, teacher_references

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LANDER"]

ANCHORS = "anchors"
"""The state's group of the classes' anchors, one array (classes, dimension) of the same name among the references."""
MAP, WEIGHT, BIAS = "map", f"{SCORES}anchor_map.weight", f"{SCORES}anchor_map.bias"
"""The state's group of the map from features to anchors, and its arrays, (dimension, width) and (dimension,)."""


@dataclass(frozen=True, kw_only=True)
class LANDER(AdapterAveraging):
    """Average what trains near fixed anchors: LANDER without its generator.

    With e_c the anchor of class c, a(x) = W h(x) + b a learned map of features to anchors, mse the mean over a batch
    and the anchors' dimensions, and CE over the task's own classes, a client minimises in the first task

        L_new = CE + pull relu(mse(a(x), e_y) - radius)

    and in later ones, with a_old and q of the last task's model, and KD the cross-entropy of the old classes'
    probabilities at `temperature` between q and the model that trains,

        (1 + 1 / alpha) / beta current L_new + previous alpha beta [KD + mse(a(x), a_old(x))],
        alpha = log2(|classes seen| / 2 + 1),  beta = sqrt(|old classes| / |classes seen|)

    Tran et al., "Text-enhanced data-free approach for federated class-incremental learning", CVPR 2024, arXiv
    2403.14101, after its public code. There the second bracket is taken on images of a generator, which the server
    trains against the global model; the server of this contract has no model to train against
    (docs/decisions/0008-server-side-training.md). So it is taken on the client's images of the current task, as LwF's.

    Anchors there are embeddings of the classes' names by a text model, which is not here. anchors = "frame" takes
    orthogonal ones, drawn from the seed, of length sqrt(dimension): nothing in them says which classes are alike.
    Another text is the path of a .npy file of (classes, dimension) numbers, a row a class in the order of arrival, such
    as embeddings of their names; read when a run starts.

    Sent: as in federated averaging, with the map, both ways; all anchors once; the last model down once a task. Kept by
    a client: nothing; by the server anchors, map and the last model. Unlike public code: without synthetic images, as
    said; LoRA by default. The model of the last round is kept, there the one of the lowest training loss. Literal
    transcription: `tests/reference_baselines3.py`.
    """

    anchors: Annotated[
        str, Option('"frame" for orthogonal anchors, or a .npy file of (classes, dimension), in order of arrival')
    ] = "frame"
    dimension: Annotated[int, Option("length of a frame's anchors, at least the number of classes", low=1)] = 512
    pull: Annotated[float, Option("weight of the distance to anchors; ltc in public code", low=0)] = 5.0
    radius: Annotated[float, Option("mean square distance to anchors that costs nothing; r", low=0)] = 0.015
    current: Annotated[float, Option("weight of the current task; alpha_cur", low=0)] = 0.2
    previous: Annotated[float, Option("weight of what the last model teaches; alpha_pre", low=0)] = 0.4
    temperature: Annotated[float, Option("T of the distillation", above=0)] = 2.0
    weights: Annotated[
        Literal["equal", "examples"], Option("clients count alike, as in public code, or by their examples")
    ] = "equal"

    def trains(self, phase: Phase) -> tuple[str, ...]:
        """The adapter's arrays and the map."""
        return (*super().trains(phase), WEIGHT, BIAS)

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The rows of all classes seen: those of the old ones learn from the last model."""
        return tuple(range(phase.task.index + 1))

    # ---- client half -------------------------------------------------------------------------------------------------

    def loss(self, step: Step) -> Tensor:
        """Cross-entropy and the distance to anchors; from the second task on what the last model teaches, too."""
        from torch.nn import functional as F

        mapped = F.linear(step.features, step.model.arrays[WEIGHT], step.model.arrays[BIAS])
        loss = step.cross_entropy()
        if self.pull:
            distance = F.mse_loss(mapped, step.constant(ANCHORS)[step.labels])
            loss = loss + self.pull * (distance - self.radius).relu()
        if not old_tasks(step):
            return loss
        task = step.phase.task
        alpha, beta = log2(task.seen / 2 + 1), sqrt(task.first / task.seen)
        features, logits = old_outputs(step, step.images)
        old = F.linear(features, step.constant(f"{TEACHER}/{WEIGHT}"), step.constant(f"{TEACHER}/{BIAS}"))
        taught = distillation(step.model.logits(step.features, old_tasks(step)), logits, self.temperature)
        taught = taught + F.mse_loss(mapped, old)
        return self.current * (1 + 1 / alpha) / beta * loss + self.previous * alpha * beta * taught

    # ---- server half -------------------------------------------------------------------------------------------------

    def init(self, backbone: Backbone, classes: int, seed: int) -> State:
        """Make room for the anchors of all classes of the run, or read them."""
        if self.anchors == "frame":
            check_frame(classes, self.dimension)
            anchors = np.zeros((classes, self.dimension), np.float32)
        else:
            anchors = read_anchors(self.anchors, classes)
        return {**super().init(backbone, classes, seed), ANCHORS: {ANCHORS: anchors}}

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Begin a task, and keep the model and the map of the last one; the first draws the map, and a frame."""
        old = teacher_of(state)
        begun = super().begin(state, phase, backbone)
        if old:
            return {**begun, TEACHER: {**old, **state[MAP]}}
        classes, dimension = state[ANCHORS][ANCHORS].shape
        bound, rng = 1 / sqrt(backbone.width), phase.generator("anchor map")  # as torch's Linear begins
        shapes = {WEIGHT: (dimension, backbone.width), BIAS: (dimension,)}
        drawn = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
        if self.anchors == "frame":
            begun = {**begun, ANCHORS: {ANCHORS: frame(classes, dimension, phase.generator("anchors"))}}
        return {**begun, MAP: drawn}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the model and the map; as references the anchors, and the last model."""
        sent = super().broadcast(state, phase)
        references = {**sent.references, **state[ANCHORS], **teacher_references(state)}
        return Broadcast({**sent.arrays, **state[MAP]}, references)

    def sums(self, phase: Phase, broadcast: Broadcast, updates: Sequence[ClientUpdate]) -> Arrays:
        """The sums of federated averaging, with clients of one weight."""
        if self.weights == "equal":
            updates = of_one_weight(updates)
        return super().sums(phase, broadcast, updates)

    def merge_sums(self, state: State, phase: Phase, sums: Arrays) -> State:
        """The mean, of the map too."""
        after = super().merge_sums(state, phase, sums)
        return {**after, MAP: {n: (a + sums[n] / sums[EXAMPLES]).astype(np.float32) for n, a in state[MAP].items()}}
