"""The growing classifier: one block of rows per task, `head.<task>.weight` and `head.<task>.bias`.

A block per task makes freezing exact: what does not train is not sent, not averaged and keeps its bits.
"""

import re
from collections.abc import Iterable

import numpy as np

from fcil.method.phases import Task

__all__ = ["bias", "block", "new_rows", "task_of", "tasks_of", "weight", "without_task"]

_NAME = re.compile(r"head\.(\d+)\.(weight|bias)")


def weight(task: int) -> str:
    """Name of a task's rows, (classes of the task, width)."""
    return f"head.{task}.weight"


def bias(task: int) -> str:
    """Name of a task's biases, (classes of the task,)."""
    return f"head.{task}.bias"


def block(task: int) -> str:
    """Return the glob pattern that matches a task's rows and biases."""
    return f"head.{task}.*"


def task_of(name: str) -> int | None:
    """The task whose block an array belongs to; None if it is none of the head's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def tasks_of(names: Iterable[str]) -> list[int]:
    """The tasks that have a block among these arrays, sorted."""
    return sorted({task for name in names if (task := task_of(name)) is not None})


def without_task(pattern: str, task: int) -> str:
    """A name or glob pattern with the number of a task's block left out, so that the blocks of two tasks compare equal.

    >>> without_task("head.3.weight", 3)
    'head.weight'
    """
    return pattern.replace(f"head.{task}.", "head.")


def new_rows(task: Task, width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows and biases for a task's classes, U(-1/sqrt(width), 1/sqrt(width)) as in torch's Linear."""
    bound = 1 / np.sqrt(width)
    return {
        weight(task.index): rng.uniform(-bound, bound, (task.size, width)).astype(np.float32),
        bias(task.index): rng.uniform(-bound, bound, task.size).astype(np.float32),
    }
