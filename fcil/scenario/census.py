"""A run's numbers of samples by task, client and class: all that a server has to know of the data.

The samples themselves are a `Scenario`, which only those have who hold the data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fcil.errors import ConfigError
from fcil.method import Task
from fcil.seeding import generator

__all__ = ["Census", "round_half_up"]

COUNTS = ("train", "test", "by_class", "test_by_class", "distinct")
"""The fields that are numbers of images."""


@dataclass(frozen=True, eq=False)
class Census:
    """The tasks of a run, and how many samples of each are held where."""

    tasks: tuple[Task, ...]
    """The tasks of training; with all classes at once the last one alone, which then holds them all."""
    classes: tuple[str, ...]
    """Names of the classes, in the order in which they arrive."""
    train: np.ndarray
    """(tasks, clients) int64: training images of every client."""
    test: np.ndarray
    """(places, tasks) int64: test images in every place that evaluates: one, unless sites evaluate on their own."""
    by_class: np.ndarray | None = None
    """(clients, classes) int64: training images of each class; None where the clients keep that to themselves."""
    test_by_class: np.ndarray | None = None
    """(places, classes) int64: test images of each class in every place; None where sites keep that to themselves."""
    distinct: np.ndarray | None = None
    """(tasks,) int64: training images of each task, each counted once, however many clients hold it; None where that
    is not known, and nobody's images are anybody else's."""

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return int(self.train.shape[1])

    @cached_property
    def totals(self) -> list[int]:
        """The number of test images of each task, over all places."""
        return [int(n) for n in self.test.sum(0)]

    @cached_property
    def class_totals(self) -> list[int]:
        """The number of test images of each class, over all places; empty where it is not told."""
        return [] if self.test_by_class is None else [int(n) for n in self.test_by_class.sum(0)]

    def shared(self, task: int) -> int:
        """Return how many training images of a task there are, if several clients hold the same; 0 if none do."""
        distinct = 0 if self.distinct is None else int(self.distinct[task])
        return distinct if distinct < self.train[task].sum() else 0

    def num_examples(self, task: int, client: int) -> int:
        """The number of training samples of a client in a task."""
        return int(self.train[task, client])

    def participants(self, task: int, round: int, share: float, seed: int, number: int = 0) -> list[int]:
        """Draw the clients of one round, sorted, from those with samples, anew in each round.

        Args:
            share: of those with samples; at least one is drawn.
            number: how many, in place of the share, or all where fewer have samples; 0: by the share.
        """
        eligible = [client for client in range(self.clients) if self.train[task, client] > 0]
        count = number or max(1, round_half_up(share * len(eligible)))
        if count >= len(eligible):
            return eligible
        return sorted(
            int(c) for c in generator(seed, task, round, "participants").choice(eligible, count, replace=False)
        )

    def to_table(self) -> dict[str, Any]:
        """Write the numbers as lists, in a form that `from_table` reads back."""
        counts = {name: getattr(self, name) for name in COUNTS}
        lists = {name: None if array is None else array.tolist() for name, array in counts.items()}
        return {"tasks": [asdict(task) for task in self.tasks], "classes": list(self.classes), **lists}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Census":
        """Read what `to_table` wrote."""
        counts: dict[str, Any] = {
            name: None if table[name] is None else np.array(table[name], np.int64) for name in COUNTS
        }
        return cls(tuple(Task(**task) for task in table["tasks"]), tuple(table["classes"]), **counts)

    def check(self) -> "Census":
        """Return the census itself where it can be run.

        Raises:
            ConfigError: a task without training or test images in any place; it names the task's classes.
        """
        for task in self.tasks:
            train, test = int(self.train[task.index].sum()), self.totals[task.index]
            if not train or not test:
                names = ", ".join(self.classes[task.first : task.seen][:5])
                raise ConfigError(
                    f"data: task {task.index + 1} ({names}{', ...' if task.size > 5 else ''}) has {train} training and "
                    f"{test} test images at all sites together; it needs both"
                )
        return self


def round_half_up(x: float) -> int:
    """Round to the nearest whole number; halves go up, so that a share of 0.5 never takes fewer than half.

    >>> round_half_up(2.5), round_half_up(2.4)
    (3, 2)
    """
    return int(np.floor(x + 0.5))
