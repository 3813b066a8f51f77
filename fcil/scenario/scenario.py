"""Assign the samples of a data set to tasks and clients: all that is decided about a run's data before it starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from fcil.data.dataset import Dataset
from fcil.errors import ConfigError
from fcil.method import Stream, Task
from fcil.scenario.census import Census
from fcil.scenario.domains import Domains
from fcil.scenario.labels import labelled
from fcil.scenario.long_tail import few_shots, kept_samples
from fcil.scenario.partition import Partition, split
from fcil.scenario.tasks import Tasks, carried_out, class_order, make_tasks
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
    """[task][client] -> sorted indices into the training part; disjoint, unless clients share classes."""
    tests: tuple[np.ndarray, ...]
    """[task] -> sorted indices into the test part."""
    unlabelled: tuple[tuple[np.ndarray, ...], ...] = ()
    """[task][client] -> sorted indices of what the client holds without labels; empty where all have labels."""
    sites: int = 0
    """The number of sites with images of their own; 0 where a data set was split among the clients."""

    def num_examples(self, task: int, client: int) -> int:
        """The number of training samples of a client in a task."""
        return len(self.parts[task][client])

    def unlabelled_of(self, task: int, client: int) -> np.ndarray:
        """Samples of a task that a client holds without their labels, (m,)."""
        return self.unlabelled[task][client] if self.unlabelled else np.empty(0, np.int64)

    def census(self, data: Dataset) -> Census:
        """Count the samples of `data`, from which the scenario was made."""
        classes, positions = tuple(data.classes[int(c)] for c in self.order), self.positions[data.train.labels]
        by_class = np.zeros((len(self.parts[0]), len(classes)), np.int64)
        for parts in self.parts:
            for client, part in enumerate(parts):
                by_class[client] += np.bincount(positions[part], minlength=len(classes))
        train = np.array([[len(part) for part in parts] for parts in self.parts], np.int64)
        distinct = np.array([len(np.unique(np.concatenate(parts))) for parts in self.parts], np.int64)
        tests = self.test_counts(data), by_class, self.test_counts_by_class(data)
        return Census(self.tasks, classes, train, *tests, distinct)

    def places(self, data: Dataset) -> list[tuple[np.ndarray, ...]]:
        """Divide the test samples among the places that evaluate: for each its samples of every task.

        It is one place for all, unless the test images belong to sites, each of which evaluates on its own.
        """
        owners = data.test.owners
        if owners is None:
            return [self.tests]
        return [tuple(test[owners[test] == site] for test in self.tests) for site in range(self.sites)]

    def test_counts(self, data: Dataset) -> np.ndarray:
        """Count the test samples, (places, tasks)."""
        return np.array([[len(test) for test in tests] for tests in self.places(data)], np.int64)

    def test_counts_by_class(self, data: Dataset) -> np.ndarray:
        """Count the test samples of each class, in the order of arrival, (places, classes)."""
        places = [self.positions[data.test.labels[np.concatenate(tests)]] for tests in self.places(data)]
        return np.array([np.bincount(of_place, minlength=len(self.order)) for of_place in places], np.int64)


def make_scenario(
    data: Dataset, tasks: Tasks, partition: Partition, seed: int, stream: Stream = "federated"
) -> Scenario:
    """Order the classes, divide them into tasks and split each task's samples among the clients.

    Where `tasks.long_tail` is above 1 or `tasks.shots` above 0, the classes' training samples are cut down first,
    whatever the partition. Where `tasks.label_share` is below 1, clients know the labels of a share of what they hold.
    With a stream other than the federated one a single client holds all samples, task by task or at once, and knows
    the labels that the clients of a federation would know.
    Sites keep what they have, which may be nothing of a task; the data may be those of some sites only.

    Raises:
        ConfigError: the tasks do not cover the classes, or a task has no samples or too few for the clients.
    """
    scenario = _split(data, tasks, partition, seed, stream)
    if tasks.label_share == 1:
        return scenario
    if stream == "federated":
        return _with_labels(scenario, lambda task, client, part: labelled(
            scenario.positions[data.train.labels[part]], tasks.label_share, seed, task, client
        ))  # fmt: skip
    federated = make_scenario(data, tasks, partition, seed)
    positions = np.concatenate([part for parts in federated.parts for part in parts])
    return _with_labels(scenario, lambda task, client, part: np.isin(part, positions))


def _with_labels(scenario: Scenario, rule: Callable[[int, int, np.ndarray], np.ndarray]) -> Scenario:
    """Divide every part into samples with labels and samples without.

    Args:
        rule: task, client, samples (n,) -> (n,) bool, whether they have labels.
    """
    labelled, unlabelled = [], []
    for task, parts in enumerate(scenario.parts):
        masks = [rule(task, client, part) for client, part in enumerate(parts)]
        labelled.append(tuple(part[mask] for part, mask in zip(parts, masks, strict=True)))
        unlabelled.append(tuple(part[~mask] for part, mask in zip(parts, masks, strict=True)))
    return replace(scenario, parts=tuple(labelled), unlabelled=tuple(unlabelled))


def _split(data: Dataset, tasks: Tasks, partition: Partition, seed: int, stream: Stream) -> Scenario:
    """Make the scenario in which all labels are known."""
    order = class_order(data.classes, tasks, seed)
    positions = np.argsort(order)
    all_tasks = make_tasks(len(data.classes), tasks)
    samples = kept_samples(data.train.labels, order, tasks, seed)
    samples = few_shots(data.train.labels, samples, order[all_tasks[0].seen :], tasks.shots)
    parts, tests = [], []
    sites = partition.clients if partition.kind == "sites" else 0
    if stream != "federated":
        partition = Partition(kind="iid", clients=1, min_samples=0)
    shares = _whole(data, samples, tasks, partition, seed) if partition.over == "whole" else None
    all_tasks = carried_out(all_tasks, tasks)
    for task in all_tasks:
        labels = order[task.first : task.seen]
        members = samples[np.isin(data.train.labels[samples], labels)]
        tests.append(np.flatnonzero(np.isin(data.test.labels, labels)))
        if partition.kind == "sites" and stream == "federated":
            parts.append(_of_sites(data, members, partition.clients))
            continue
        if not len(members) or not len(tests[-1]):
            names = ", ".join([*(data.classes[int(c)] for c in labels[:5]), *(["..."] if len(labels) > 5 else [])])
            raise ConfigError(
                f"data: task {task.index + 1} ({names}) has {len(members)} training and {len(tests[-1])} test images "
                f"of {data.name}; it needs both. Add images, take larger tasks, or raise data.train_limit and "
                "data.test_limit where they are set"
            )
        if shares is not None:
            parts.append(tuple(samples[share][np.isin(samples[share], members)] for share in shares))
            continue
        of_task = _shares(data, members, task, tasks, partition, seed)
        parts.append(tuple(members[share] for share in of_task))
    scenario = Scenario(all_tasks, order, positions, tuple(parts), tuple(tests), sites=sites)
    return _at_once(scenario) if stream == "at_once" else scenario


def _of_sites(data: Dataset, members: np.ndarray, clients: int) -> tuple[np.ndarray, ...]:
    """Give every client the samples of its own site."""
    owners = data.train.owners
    if owners is None:
        raise ConfigError('partition.kind = "sites": the images of these data belong to no site; see data.sites')
    return tuple(members[owners[members] == client] for client in range(clients))


def _domains(data: Dataset, samples: np.ndarray) -> Domains | None:
    """The domains of some training samples, where the data set tells them."""
    return None if data.train.domains is None else Domains(data.train.domains[samples], data.domains)


def _shares(
    data: Dataset, members: np.ndarray, task: Task, tasks: Tasks, partition: Partition, seed: int
) -> list[np.ndarray]:
    """Split one task's samples."""
    with _saying_what_took_them(tasks, f"task {task.index + 1}", len(members)):
        rng = generator(seed, task.index, "partition")
        return split(data.train.labels[members], partition, rng, _domains(data, members))


def _whole(data: Dataset, samples: np.ndarray, tasks: Tasks, partition: Partition, seed: int) -> list[np.ndarray]:
    """Split all samples at once; of a task a client may then have none."""
    with _saying_what_took_them(tasks, "all tasks", len(samples)):
        rng = generator(seed, "partition of the whole")
        return split(data.train.labels[samples], partition, rng, _domains(data, samples))


@contextmanager
def _saying_what_took_them(tasks: Tasks, whose: str, count: int) -> Iterator[None]:
    """Let a complaint that there are too few samples name the setting that took them away."""
    try:
        yield
    except ConfigError as error:
        took = [f"lower tasks.long_tail = {tasks.long_tail:g}"] if tasks.long_tail > 1 else []
        took += [f"raise tasks.shots = {tasks.shots}"] if tasks.shots else []
        if not took:
            raise
        raise ConfigError(
            f"{error}; or {' or '.join(took)}, which leaves {whose} only {count} training images"
        ) from None


def _at_once(scenario: Scenario) -> Scenario:
    """Let every class of the tasks carried out arrive with their last, which is the only one; tests stay in theirs."""
    last = Task(scenario.tasks[-1].index, 0, scenario.tasks[-1].seen)
    everything = np.sort(np.concatenate([part for parts in scenario.parts for part in parts]))
    before = (np.empty(0, np.int64),)
    return replace(scenario, tasks=(last,), parts=((before,) * last.index) + ((everything,),))
