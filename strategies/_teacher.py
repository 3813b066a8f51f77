"""The last task's model as a teacher: kept by the server, sent as references, asked for logits of the old classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fcil.arrays import State
from fcil.method import Modules, Step
from fcil.method.averaging import FIXED

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TEACHER", "distillation", "old_logits", "old_outputs", "old_tasks", "teacher_of", "teacher_references"]

TEACHER = "teacher"
"""The state's group of the model at the last task's end; among the references, before a slash."""


def teacher_of(state: State) -> dict[str, np.ndarray]:
    """The module and all head rows as they are at a task's end, before the next begins; empty before the first."""
    modules = Modules.trained(state)
    return {**modules.module, **modules.head} if modules.head else {}


def teacher_references(state: State) -> dict[str, np.ndarray]:
    """The teacher as references of a broadcast: sent once to each client and task, since its content stays."""
    return {f"{TEACHER}/{name}": a for name, a in state.get(TEACHER, {}).items()}


def old_tasks(step: Step) -> tuple[int, ...]:
    """The tasks before the current one."""
    return tuple(range(step.phase.task.index))


def old_outputs(step: Step, images: Tensor, tasks: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """The teacher's features of images, (n, width), and logits, (n, classes), without a gradient.

    Args:
        tasks: those that have the classes; all old ones unless given.
    """
    import torch

    names = [name for name in step.references if name.partition("/")[0] in (TEACHER, FIXED)]
    teacher = {name.partition("/")[2]: step.constant(name) for name in names}
    with torch.no_grad(), step.model.using(teacher):
        features = step.model.features(images)
        return features, step.model.logits(features, old_tasks(step) if tasks is None else tasks)


def old_logits(step: Step, images: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
    """The teacher's logits of images, (n, old classes) or those of some tasks, without a gradient."""
    return old_outputs(step, images, tasks)[1]


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-mean over images of sum_c q_c log s_c, q and s the softmax of logits / T, (n, c); no factor T^2.

    Hinton et al., arXiv 1503.02531; with both normalised over these classes alone, as in LwF, where p^(1/T) normalised
    is the softmax of logits / T.
    """
    targets = (teacher / temperature).softmax(1)
    return -(targets * (student / temperature).log_softmax(1)).sum(1).mean()
