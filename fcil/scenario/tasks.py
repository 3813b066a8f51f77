"""Order the classes and divide them into tasks. Pure.

Inside a run a class is known by its *position* in the class order: task t holds the positions `first` to
`first + size - 1`, so that head rows, masks and labels are offsets, never remainders, also where tasks differ in size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from fcil.errors import ConfigError
from fcil.method import Task
from fcil.options import Option
from fcil.seeding import generator, published_permutation
from fcil.words import nearest_class

__all__ = ["Tasks", "carried_out", "check_order", "class_order", "make_tasks", "number_of_tasks", "read_order"]


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """`[tasks]`: how the classes are ordered and divided into tasks, and how many training images each of them has."""

    count: Annotated[int, Option("number of tasks; the last one is smaller where classes do not divide", low=1)] = 5
    sizes: Annotated[tuple[int, ...], Option("classes of each task, in place of `count`", low=1)] = ()
    first: Annotated[int, Option("carry out only the first so many tasks; 0: all", low=0)] = 0
    classes: Annotated[
        tuple[str, ...], Option("names of all classes, in the order that is the natural one; empty: the data set's")
    ] = ()
    order: Annotated[Literal["natural", "shuffled"], Option("the natural class order, or one drawn from a seed")] = (
        "natural"
    )
    order_seed: Annotated[
        int | Literal["run"],
        Option(
            'for order = shuffled: the seed of NumPy\'s RandomState(seed).permutation; "run": drawn from run.seed',
            low=0, high=2**32 - 1,
        ),
    ] = "run"  # fmt: skip
    order_list: Annotated[
        tuple[str, ...],
        Option("all classes in the order in which they arrive, by name, or by number from 0 in the natural order"),
    ] = ()
    order_file: Annotated[
        str, Option("a file of the same, one a line; it is read with the settings, and recorded as order_list")
    ] = ""
    shots: Annotated[int, Option("most training images of each class of all tasks but the first; 0: all", low=0)] = 0
    label_share: Annotated[
        float,
        Option(
            "share of each client's training images of each class that have labels; of the others only "
            "the images are there, for methods that look for them",
            above=0, high=1,
        ),
    ] = 1.0  # fmt: skip
    long_tail: Annotated[
        float, Option("training images of the largest class over the smallest's, falling geometrically; 1: all", low=1)
    ] = 1.0
    tail_order: Annotated[
        Literal["ordered", "shuffled"],
        Option("for long_tail: classes that arrive later have fewer images, or an order drawn from run.seed decides"),
    ] = "ordered"


def number_of_tasks(settings: Tasks) -> int:
    """The number of tasks that a run carries out: all, or the first ones."""
    everything = len(settings.sizes) or settings.count
    return min(settings.first or everything, everything)


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


def carried_out(tasks: Sequence[Task], settings: Tasks) -> tuple[Task, ...]:
    """The tasks that a run carries out: all, or the first ones; classes of the others are never seen."""
    return tuple(tasks[: settings.first or None])


def class_order(classes: Sequence[str], settings: Tasks, seed: int) -> np.ndarray:
    """The class order as an array: position -> the data set's label.

    Args:
        classes: [label] -> the class's name.

    Raises:
        ConfigError: `tasks.classes` or the class order does not name every class once, or settings contradict.
    """
    check_order(settings)
    natural = np.arange(len(classes))
    if settings.classes:
        _check_names(classes, settings.classes)
        natural = np.array([classes.index(name) for name in settings.classes], np.int64)
    if settings.order_list or settings.order_file:
        listed = settings.order_list or read_order(settings.order_file)
        return natural[_listed([classes[int(c)] for c in natural], listed)]
    if settings.order == "natural":
        return natural
    if settings.order_seed == "run":
        return generator(seed, "class order").permutation(natural)
    order: np.ndarray = natural[published_permutation(settings.order_seed, len(natural))]
    return order


def read_order(path: str) -> tuple[str, ...]:
    """Read a class order, one name or number a line; empty lines and those that begin with # are passed over.

    Raises:
        ConfigError: there is no such file, or it holds no text.
    """
    try:
        lines = Path(path).expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ConfigError(f"tasks.order_file = {path!r}: cannot be read ({reason})") from None
    entries = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not entries:
        raise ConfigError(f"tasks.order_file = {path!r}: has no class in it; write one name or number a line")
    return entries


def _listed(names: Sequence[str], listed: Sequence[str]) -> list[int]:
    """Positions in the natural order of listed classes: of names where all are names, else of numbers."""
    numbers = {str(c): c for c in range(len(names))}
    if strange := [entry for entry in listed if entry not in names and entry not in numbers]:
        hint = "" if strange[0].isdecimal() else f". {nearest_class(strange[0], names)}"
        raise ConfigError(
            f"tasks.order_list: {strange[0]!r} is no class and no number from 0 to {len(names) - 1}{hint}"
        )
    if set(listed) <= set(names):
        classes = [names.index(entry) for entry in listed]
    elif set(listed) <= numbers.keys():
        classes = [numbers[entry] for entry in listed]
    else:
        raise ConfigError("tasks.order_list: has names and numbers; write the one or the other")
    twice = [entry for entry, c in zip(listed, classes, strict=True) if classes.count(c) > 1]
    if twice:
        raise ConfigError(f"tasks.order_list: {twice[0]!r} stands there more than once")
    if len(classes) < len(names):
        missing = next(name for c, name in enumerate(names) if c not in classes)
        raise ConfigError(
            f"tasks.order_list: {len(names) - len(classes)} of {len(names)} classes are missing, such as {missing!r}"
        )
    return classes


def check_order(settings: Tasks) -> None:
    """Raise ConfigError where settings of the class order contradict each other."""
    if settings.order_list and settings.order_file:
        raise ConfigError("tasks.order_file and tasks.order_list: two class orders; leave one of them out")
    order = settings.order_list or settings.order_file
    if order and settings.order != "natural":
        raise ConfigError(
            f'tasks.order = "{settings.order}": the class order is given by tasks.order_'
            f"{'list' if settings.order_list else 'file'}; leave one of the two out"
        )
    if settings.order_seed != "run" and settings.order != "shuffled":
        raise ConfigError(
            f'tasks.order_seed = {settings.order_seed}: of which order? Set tasks.order = "shuffled" with it'
        )


def _check_names(classes: Sequence[str], order: Sequence[str]) -> None:
    twice = [name for name in order if order.count(name) > 1]
    strange, missing = sorted(set(order) - set(classes)), sorted(set(classes) - set(order))
    if twice:
        raise ConfigError(f"tasks.classes: {twice[0]!r} stands there more than once")
    if strange:
        raise ConfigError(f"tasks.classes: no class is called {strange[0]!r}. {nearest_class(strange[0], classes)}")
    if missing:
        raise ConfigError(f"tasks.classes: {len(missing)} classes of the data are missing, such as {missing[0]!r}")
