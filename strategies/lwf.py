"""LwF, federated: distil the last task's model into the next one, on the images at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fcil.arrays import State
from fcil.method import Backbone, Broadcast, Modules, Phase, Step
from fcil.options import Option

from ._adapters import AdapterAveraging
from ._teacher import TEACHER, distillation, old_logits, old_tasks, teacher_of, teacher_references

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LwF"]


@dataclass(frozen=True, kw_only=True)
class LwF(AdapterAveraging):
    """Average what trains while the last task's model teaches the old classes.

    From the second task on clients minimise, on their images of the current task,

        L_i - alpha mean_x sum_{c old} q_c(x) log s_c(x)

    with q and s the softmax at temperature T of the old classes' logits, by the merged model at the last task's end and
    by the one that trains, on the same augmented image. Li and Hoiem, "Learning without forgetting", ECCV 2016, arXiv
    1606.09282, equations 2 and 3: alpha = 1 and T = 2; without the factor T^2 of later papers.

    Sent: the teacher, one model down once a task, and the old classes' head rows, which train too, both ways. Kept by a
    client: nothing; by the server the teacher.

    Unlike the paper: federated; without its warm-up, in which the new rows alone train until they converge; LoRA by
    default, `adapter = "full"` for all weights; L_i is cross-entropy masked to the current task's classes, as the
    paper's is. fed-mammoth cuts teacher and student to the current classes, which the teacher has never seen, so that
    its tables show another method: that is `classes` = "current", the teacher's rows of them being those with which the
    task begins. With alpha = 0 it is federated averaging bit for bit. Literal transcription:
    `tests/reference_baselines.py`.
    """

    alpha: Annotated[float, Option("weight of the distillation; lambda_o in the paper", low=0)] = 1.0
    temperature: Annotated[float, Option("T, by which logits are divided", above=0)] = 2.0
    classes: Annotated[
        Literal["old", "current"],
        Option("classes that the teacher teaches: old ones, or as in fed-mammoth the task's own, which it never saw"),
    ] = "old"

    def head_tasks(self, phase: Phase) -> tuple[int, ...]:
        """The rows of all classes seen, where those of the old ones learn from the teacher."""
        wide = self.alpha and self.classes == "old"
        return tuple(range(phase.task.index + 1)) if wide else super().head_tasks(phase)

    def begin(self, state: State, phase: Phase, backbone: Backbone) -> State:
        """Begin a task, and keep the model of the last one; where it teaches new classes, with their rows as drawn."""
        begun, teacher = super().begin(state, phase, backbone), teacher_of(state) if self.alpha else {}
        if teacher and self.classes == "current":
            teacher |= Modules.of(begun).head_rows(phase.task.index)
        return {**begun, TEACHER: teacher}

    def broadcast(self, state: State, phase: Phase) -> Broadcast:
        """Send the model, and the teacher as references."""
        sent = super().broadcast(state, phase)
        return Broadcast(sent.arrays, {**sent.references, **teacher_references(state)})

    def loss(self, step: Step) -> Tensor:
        """Masked cross-entropy, and from the second task on the distillation."""
        if not old_tasks(step) or not self.alpha:
            return step.cross_entropy()
        tasks = old_tasks(step) if self.classes == "old" else (step.phase.task.index,)
        student = step.model.logits(step.features, tasks)
        taught = distillation(student, old_logits(step, step.images, tasks), self.temperature)
        return step.cross_entropy() + self.alpha * taught
