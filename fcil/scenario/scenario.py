"""Assign the samples of a data set to tasks and clients: all that is decided about a run's data before it starts."""

from dataclasses import dataclass, replace

import numpy as np

from fcil.data.dataset import Dataset
from fcil.errors import ConfigError
from fcil.method import Stream, Task
from fcil.scenario.long_tail import kept_samples
from fcil.scenario.partition import Partition, split
from fcil.scenario.tasks import Tasks, class_order, make_tasks
from fcil.seeding import generator

__all__ = ["Scenario", "make_scenario"]


@dataclass(frozen=True)
class Scenario:
    """The tasks of a run, and the samples that every client holds in each of them."""

    tasks: tuple[Task, ...]
    """The tasks of training; with all classes at once the last one alone, which then holds them all."""
    order: np.ndarray
    """Position in the class order -> the data set's label."""
    positions: np.ndarray
    """The data set's label -> position in the class order."""
    parts: tuple[tuple[np.ndarray, ...], ...]
    """[task][client] -> sorted indices into the training part."""
    tests: tuple[np.ndarray, ...]
    """[task] -> sorted indices into the test part."""

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return len(self.parts[0])

    def num_examples(self, task: int, client: int) -> int:
        """The number of training samples of a client in a task."""
        return len(self.parts[task][client])

    def participants(self, task: int, round: int, share: float, seed: int) -> list[int]:
        """Draw the clients of one round, sorted: `share` of those with samples (at least one), anew in each round."""
        eligible = [client for client in range(self.clients) if self.num_examples(task, client) > 0]
        count = max(1, round_half_up(share * len(eligible)))
        if count >= len(eligible):
            return eligible
        return sorted(
            int(c) for c in generator(seed, task, round, "participants").choice(eligible, count, replace=False)
        )


def round_half_up(x: float) -> int:
    """Round to the nearest whole number; halves go up, so that a share of 0.5 never takes fewer than half.

    >>> round_half_up(2.5), round_half_up(2.4)
    (3, 2)
    """
    return int(np.floor(x + 0.5))


def make_scenario(
    data: Dataset, tasks: Tasks, partition: Partition, seed: int, stream: Stream = "federated"
) -> Scenario:
    """Order the classes, divide them into tasks and split each task's samples among the clients.

    Where `tasks.long_tail` is above 1, the classes' training samples are cut down first, whatever the partition.
    With a stream other than the federated one a single client holds all samples, task by task or at once.

    Raises:
        ConfigError: the tasks do not cover the classes, or a task has no samples or too few for the clients.
    """
    order = class_order(len(data.classes), tasks, seed)
    positions = np.argsort(order)
    kept = kept_samples(data.train.labels, order, tasks, seed)
    parts, tests = [], []
    all_tasks = make_tasks(len(data.classes), tasks)
    if stream != "federated":
        partition = Partition(kind="iid", clients=1, min_samples=0)
    for task in all_tasks:
        labels = order[task.first : task.seen]
        members = kept[np.isin(data.train.labels[kept], labels)]
        tests.append(np.flatnonzero(np.isin(data.test.labels, labels)))
        if not len(members) or not len(tests[-1]):
            raise ConfigError(
                f"data: task {task.index + 1} has {len(members)} training and {len(tests[-1])} test images of "
                f"{data.name}; it needs both. Raise data.train_limit or data.test_limit"
            )
        shares = _shares(data.train.labels[members], task, tasks, partition, seed)
        parts.append(tuple(members[share] for share in shares))
    scenario = Scenario(all_tasks, order, positions, tuple(parts), tuple(tests))
    return _at_once(scenario) if stream == "at_once" else scenario


def _shares(labels: np.ndarray, task: Task, tasks: Tasks, partition: Partition, seed: int) -> list[np.ndarray]:
    """Split one task's samples; a complaint that there are too few names the long tail, where that took them away."""
    try:
        return split(labels, partition, generator(seed, task.index, "partition"))
    except ConfigError as error:
        if tasks.long_tail == 1:
            raise
        raise ConfigError(
            f"{error}; or lower tasks.long_tail = {tasks.long_tail:g}, which leaves task {task.index + 1} "
            f"only {len(labels)} training images"
        ) from None


def _at_once(scenario: Scenario) -> Scenario:
    """Let every class arrive with the last task, which is the only one; test images stay in their tasks."""
    last = Task(scenario.tasks[-1].index, 0, len(scenario.order))
    everything = np.sort(np.concatenate([part for parts in scenario.parts for part in parts]))
    before = (np.empty(0, np.int64),)
    return replace(scenario, tasks=(last,), parts=((before,) * last.index) + ((everything,),))
