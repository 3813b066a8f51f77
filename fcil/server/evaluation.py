"""Reads what an evaluation told: numbers of correct answers by class or by task, in every place that evaluates.

They are checked against the numbers of test images, summed over places and tasks, and enter the progress and an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcil.arrays import nbytes, ungrouped
from fcil.errors import RunError
from fcil.method import Task
from fcil.server.plan import Plan, Progress, Storage

__all__ = ["Answers", "answers_event", "groups", "read_answers", "with_answers", "with_storage"]


@dataclass(frozen=True)
class Answers:
    """The correct answers of one evaluation, on the test images of all classes seen."""

    at_places: np.ndarray
    """(places, tasks seen) int64."""
    by_class: np.ndarray | None
    """(places, classes seen) int64 in the order of arrival; None where sites keep their classes to themselves."""

    @property
    def by_task(self) -> list[int]:
        """The numbers of all places together, one for each task seen."""
        return [int(n) for n in self.at_places.sum(0)]

    @property
    def of_classes(self) -> tuple[int, ...]:
        """The numbers of all places together, one for each class seen; empty where they are not told by class."""
        return () if self.by_class is None else tuple(int(n) for n in self.by_class.sum(0))


def groups(plan: Plan, task: Task) -> int:
    """The number of groups in which an evaluation after `task` tells its correct answers: classes, or tasks, seen."""
    return task.seen if plan.config.answers_by_class else task.index + 1


def read_answers(plan: Plan, task: Task, answers: np.ndarray) -> Answers:
    """Read what `Exchange.evaluate` returned after `task`.

    Raises:
        RunError: more correct answers than test images, or fewer than none; it names the place.
    """
    if not plan.config.answers_by_class:
        _check(answers, plan.census.test[:, : answers.shape[1]], "of task")
        return Answers(answers, None)
    total = plan.census.test_by_class
    assert total is not None
    _check(answers, total[:, : answers.shape[1]], "of class")
    blocks = plan.blocks[: task.index + 1]
    at_places = np.stack([answers[:, block.first : block.seen].sum(1) for block in blocks], 1)
    return Answers(at_places, answers)


def _check(correct: np.ndarray, total: np.ndarray, of: str) -> None:
    """Raise RunError for numbers that cannot be true."""
    for site, group in np.argwhere((correct < 0) | (correct > total))[:1]:
        raise RunError(
            f"site {site}: reports {correct[site, group]} correct answers on the {total[site, group]} test images "
            f"that it has {of} {group + 1}; mend its node, and the same command goes on with the run"
        )


def with_answers(progress: Progress, answers: Answers) -> Progress:
    """The progress with the evaluation at a task's end: a row of correct answers."""
    rows = tuple(tuple(int(n) for n in row) for row in answers.at_places)
    by_class = (*progress.class_correct, answers.of_classes) if answers.of_classes else progress.class_correct
    correct = (*progress.correct, tuple(answers.by_task))
    return replace(progress, correct=correct, at_places=rows, class_correct=by_class)


def with_storage(progress: Progress, task: Task) -> Progress:
    """The progress with the bytes that server and clients store at a task's end."""
    sizes = progress.kept.values()
    stored = Storage(task.index, nbytes(ungrouped(progress.state)), sum(sizes), max(sizes, default=0))
    return replace(progress, storage=(*progress.storage, stored))


def answers_event(plan: Plan, answers: Answers) -> dict[str, Any]:
    """The entries of an event for an evaluation: all places by task and by class, and those that are sites."""
    correct, of_classes = answers.by_task, answers.of_classes
    total = plan.census.totals[: len(correct)]
    entries: dict[str, Any] = {"correct": correct, "total": total, "accuracy": sum(correct) / sum(total)}
    if of_classes:
        entries |= {"class_correct": list(of_classes), "class_total": plan.census.class_totals[: len(of_classes)]}
    return {**entries, **({"sites": _of_sites(plan, answers)} if plan.sites_evaluate else {})}


def _of_sites(plan: Plan, answers: Answers) -> Mapping[str, Any]:
    """The sites' own numbers, where they evaluate on their own."""
    at_places, by_class = answers.at_places, answers.by_class
    counts = {"correct": at_places.tolist(), "total": plan.census.test[:, : at_places.shape[1]].tolist()}
    if by_class is None or plan.census.test_by_class is None:
        return counts
    total = plan.census.test_by_class[:, : by_class.shape[1]]
    return {**counts, "class_correct": by_class.tolist(), "class_total": total.tolist()}
