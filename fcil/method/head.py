"""The growing classifier: one block of rows per task, `head.<task>.weight` and `head.<task>.bias`.

A block per task makes freezing exact: what does not train is not sent, not averaged and keeps its bits.
"""

import re
from collections.abc import Iterable

import numpy as np

from fcil.method.phases import HeadStart, Task

__all__ = ["bias", "block", "new_rows", "task_of", "tasks_of", "weight", "without_task"]

TIMM_SD, TIMM_CUT = 0.02, 2.0
"""Standard deviation and cut of timm's start. The cut is absolute, not in units of sd, so 100 sd away."""
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


def new_rows(task: Task, width: int, rng: np.random.Generator, start: HeadStart = "linear") -> dict[str, np.ndarray]:
    """Rows and biases for a task's classes.

    Args:
        start: "linear" draws both from U(-1/sqrt(width), 1/sqrt(width)), as torch's Linear. "timm" draws rows from a
            normal distribution of sd 0.02, cut at -2 and 2, and begins with biases of zero, as timm's `trunc_normal_`
            does for the heads of its vision transformers: what LoRM's public code runs.
    """
    if start == "timm":
        rows = np.clip(rng.normal(0, TIMM_SD, (task.size, width)), -TIMM_CUT, TIMM_CUT)
        return {weight(task.index): rows.astype(np.float32), bias(task.index): np.zeros(task.size, np.float32)}
    bound = 1 / np.sqrt(width)
    return {
        weight(task.index): rng.uniform(-bound, bound, (task.size, width)).astype(np.float32),
        bias(task.index): rng.uniform(-bound, bound, task.size).astype(np.float32),
    }
