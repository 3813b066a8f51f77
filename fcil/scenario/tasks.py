"""Order the classes and divide them into tasks. Pure.

Inside a run a class is known by its *position* in the class order: task t holds the positions `first` to
`first + size - 1`, so that head rows, masks and labels are offsets, never remainders, also where tasks differ in size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.errors import ConfigError
from fcil.method import Task
from fcil.options import Option, nearest
from fcil.seeding import generator

__all__ = ["Tasks", "class_order", "make_tasks"]


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """`[tasks]`: how the classes are ordered and divided into tasks, and how many training images each of them has."""

    count: Annotated[int, Option("number of tasks; the last one is smaller where classes do not divide", low=1)] = 5
    sizes: Annotated[tuple[int, ...], Option("classes of each task, in place of `count`", low=1)] = ()
    classes: Annotated[
        tuple[str, ...], Option("names of all classes, in the order that is the natural one; empty: the data set's")
    ] = ()
    order: Annotated[Literal["natural", "shuffled"], Option("the natural class order, or one drawn from run.seed")] = (
        "natural"
    )
    long_tail: Annotated[
        float, Option("training images of the largest class over the smallest's, falling geometrically; 1: all", low=1)
    ] = 1.0
    tail_order: Annotated[
        Literal["ordered", "shuffled"],
        Option("for long_tail: classes that arrive later have fewer images, or an order drawn from run.seed decides"),
    ] = "ordered"


def make_tasks(classes: int, settings: Tasks) -> tuple[Task, ...]:
    """Divide `classes` classes into tasks.

    With `count`, every task has ceil(classes / count) classes but the last, which has the rest:

    >>> [task.size for task in make_tasks(196, Tasks(count=10))]
    [20, 20, 20, 20, 20, 20, 20, 20, 20, 16]

    Raises:
        ConfigError: the tasks do not cover the classes exactly.
    """
    sizes: Sequence[int] = settings.sizes
    if not sizes:
        per_task = -(-classes // settings.count)
        sizes = [per_task] * (settings.count - 1) + [classes - per_task * (settings.count - 1)]
        if sizes[-1] < 1:
            raise ConfigError(
                f"tasks.count = {settings.count}: {classes} classes do not fill that many tasks of {per_task}; "
                "choose a smaller count, or give tasks.sizes"
            )
    if sum(sizes) != classes:
        raise ConfigError(
            f"tasks.sizes = {list(sizes)}: they sum to {sum(sizes)}, but the data set has {classes} classes; "
            "the tasks must cover every class exactly once"
        )
    firsts = np.cumsum([0, *sizes])
    return tuple(Task(i, int(first), int(size)) for i, (first, size) in enumerate(zip(firsts, sizes, strict=False)))


def class_order(classes: Sequence[str], settings: Tasks, seed: int) -> np.ndarray:
    """The class order as an array: position -> the data set's label.

    Args:
        classes: [label] -> the class's name.

    Raises:
        ConfigError: `tasks.classes` does not name every class once.
    """
    natural = np.arange(len(classes))
    if settings.classes:
        _check_names(classes, settings.classes)
        natural = np.array([classes.index(name) for name in settings.classes], np.int64)
    return natural if settings.order == "natural" else generator(seed, "class order").permutation(natural)


def _check_names(classes: Sequence[str], order: Sequence[str]) -> None:
    twice = [name for name in order if order.count(name) > 1]
    strange, missing = sorted(set(order) - set(classes)), sorted(set(classes) - set(order))
    if twice:
        raise ConfigError(f"tasks.classes: {twice[0]!r} stands there more than once")
    if strange:
        raise ConfigError(f"tasks.classes: no class is called {strange[0]!r}. {nearest(strange[0], classes)}")
    if missing:
        raise ConfigError(f"tasks.classes: {len(missing)} classes of the data are missing, such as {missing[0]!r}")
