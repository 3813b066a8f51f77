"""Tasks x clients -> sample indices: everything about a run's data that is decided before it starts."""

from dataclasses import dataclass, replace

import numpy as np

from fcil.data.dataset import Dataset
from fcil.errors import ConfigError
from fcil.method import Stream, Task
from fcil.scenario.partition import Partition, split
from fcil.scenario.tasks import Tasks, class_order, make_tasks
from fcil.seeding import generator

__all__ = ["Scenario", "make_scenario"]


@dataclass(frozen=True)
class Scenario:
    """Who has what, when."""

    tasks: tuple[Task, ...]
    """Of training; with all classes at once the last one alone, which then holds them all."""
    order: np.ndarray
    """Position -> the data set's label."""
    positions: np.ndarray
    """The data set's label -> position."""
    parts: tuple[tuple[np.ndarray, ...], ...]
    """[task][client] -> sorted indices into the training part."""
    tests: tuple[np.ndarray, ...]
    """[task] -> sorted indices into the test part."""

    @property
    def clients(self) -> int:
        """Number of clients."""
        return len(self.parts[0])

    def num_examples(self, task: int, client: int) -> int:
        """Training samples of a client in a task."""
        return len(self.parts[task][client])

    def participants(self, task: int, round: int, share: float, seed: int) -> list[int]:
        """Clients of one round, sorted: `share` of those with samples (at least one), drawn anew in each round."""
        able = [client for client in range(self.clients) if self.num_examples(task, client) > 0]
        count = max(1, round_half_up(share * len(able)))
        if count >= len(able):
            return able
        return sorted(int(c) for c in generator(seed, task, round, "participants").choice(able, count, replace=False))


def round_half_up(x: float) -> int:
    """The nearest whole number; halves go up, so that a share of 0.5 never asks fewer than half."""
    return int(np.floor(x + 0.5))


def make_scenario(
    data: Dataset, tasks: Tasks, partition: Partition, seed: int, stream: Stream = "federated"
) -> Scenario:
    """Order the classes, cut them into tasks and share each task's samples among the clients.

    With another stream than the federated one a single client holds them all, task by task or at once.

    Raises:
        ConfigError: the tasks do not cover the classes, the split cannot serve the clients, or a class has no samples.
    """
    order = class_order(len(data.classes), tasks, seed)
    positions = np.argsort(order)
    parts, tests = [], []
    cut = make_tasks(len(data.classes), tasks)
    if stream != "federated":
        partition = Partition(kind="iid", clients=1, min_samples=0)
    for task in cut:
        labels = order[task.first : task.seen]
        mine = np.flatnonzero(np.isin(data.train.labels, labels))
        tests.append(np.flatnonzero(np.isin(data.test.labels, labels)))
        if not len(mine) or not len(tests[-1]):
            raise ConfigError(
                f"data: task {task.index + 1} has {len(mine)} training and {len(tests[-1])} test images of "
                f"{data.name}; it needs both. Raise data.train_limit or data.test_limit"
            )
        shares = split(data.train.labels[mine], partition, generator(seed, task.index, "partition"))
        parts.append(tuple(mine[share] for share in shares))
    scenario = Scenario(cut, order, positions, tuple(parts), tuple(tests))
    return _at_once(scenario) if stream == "at_once" else scenario


def _at_once(scenario: Scenario) -> Scenario:
    """Every class arrives with the last task, which is the only one; test images stay in their tasks."""
    last = Task(scenario.tasks[-1].index, 0, len(scenario.order))
    everything = np.sort(np.concatenate([part for parts in scenario.parts for part in parts]))
    before = (np.empty(0, np.int64),)
    return replace(scenario, tasks=(last,), parts=((before,) * last.index) + ((everything,),))
