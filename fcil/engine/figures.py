"""Computes figures that tell classes and clients apart, and what a run took to get somewhere; pure functions.

All come from counts of correct answers after a task, by task or by class, without a task id; docs/figures.md defines
every one. Accuracies are shares between 0 and 1. A figure that cannot be had is None, and `absent` says why.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fcil.engine.metrics import SEQUENTIAL
from fcil.errors import ConfigError

__all__ = [
    "AT_ONCE", "EARLIER", "OF_CLASSES", "OF_CLIENTS", "OF_TASKS", "STORED", "Reached", "by_class", "by_client",
    "class_matrix", "completed", "first_reached", "forward_transfer", "old_and_new", "why_no_sequence",
]  # fmt: skip

OF_CLASSES = ("macro_accuracy", "worst_class_accuracy", "worst_class")
OF_TASKS = ("base_accuracy", "later_accuracy", "harmonic_accuracy", "old_accuracy", "new_accuracy")
OF_EARLIER = ("forgetting", "backward_transfer")
"""Figures of `summarise` that are means over all tasks but the last."""
OF_CLIENTS = ("client_accuracy", "client_accuracy_mean", "client_accuracy_worst", "client_accuracy_std")
STORED = ("state_bytes", "client_bytes", "client_bytes_max")
EARLIER = "the run was recorded by an earlier version of fcil, which did not count it"
"""The reason why figures of runs of old are absent."""
AT_ONCE = "all classes were learned at once"
"""The reason why a run has no figures that need an evaluation after every task."""


def _accuracies(correct: Sequence[int], total: Sequence[int]) -> np.ndarray:
    """Accuracy of each class seen, NaN where it has no test image."""
    n = np.asarray(total[: len(correct)], np.float64)
    shares = np.full(len(n), np.nan)
    np.divide(correct, n, out=shares, where=n > 0)
    return shares


def class_matrix(rows: Sequence[Sequence[int]], total: Sequence[int]) -> np.ndarray:
    """Accuracies by class, (evaluations, classes): NaN for classes not seen yet, and for those without test images."""
    matrix = np.full((len(rows), len(total)), np.nan)
    for at, row in enumerate(rows):
        matrix[at, : len(row)] = _accuracies(row, total)
    return matrix


def by_class(correct: Sequence[int], total: Sequence[int], classes: Sequence[str]) -> dict[str, Any]:
    """Compute macro accuracy and the worst class after a task, over the classes seen that have test images.

    Args:
        correct: (classes seen,) correct answers on each class, in the order of arrival.
        total: (classes,) test images of each class.
        classes: their names.
    """
    shares = _accuracies(correct, total)
    worst = int(np.nanargmin(shares))  # the first of several; a task without test images is no run
    return dict(zip(OF_CLASSES, (float(np.nanmean(shares)), float(shares[worst]), classes[worst]), strict=True))


def old_and_new(correct: Sequence[Sequence[int]], total: Sequence[int]) -> dict[str, float | None]:
    """Compute base against later classes, and old against new ones, after the last task done; None where it is alone.

    Base classes are those of the first task and later ones all others; new classes are those of the last task done and
    old ones all before. Each is pooled, correct / total. The harmonic mean is 2 ab / (a + b) of base and later.
    """
    row = correct[-1]
    if len(row) < 2:
        return dict.fromkeys(OF_TASKS)

    def share(begin: int, end: int) -> float:
        return float(sum(row[begin:end]) / sum(total[begin:end]))

    done = len(row)
    base, later = share(0, 1), share(1, done)
    harmonic = 2 * base * later / (base + later) if base + later else 0.0
    return dict(zip(OF_TASKS, (base, later, harmonic, share(0, done - 1), share(done - 1, done)), strict=True))


def by_client(images: np.ndarray, correct: Sequence[int], total: Sequence[int]) -> dict[str, Any]:
    """Compute what accuracy each client has on classes in its own proportions: sum_c p_kc a_c.

    p_kc is the share of class c in the training images of client k, of all tasks so far; a_c is the accuracy of class c
    over all test images. Classes without test images are left out, and shares are of the others. A client without
    images of these is None in the list, and not in mean, worst and spread, in which every other client counts alike.

    Args:
        images: (clients, classes) training images of each class.
        correct: (classes seen,) correct answers on each class, in the order of arrival.
        total: (classes,) test images of each class.
    """
    shares = _accuracies(correct, total)
    tested = ~np.isnan(shares)
    counts = images[:, : len(shares)][:, tested].astype(np.float64)
    has_images = counts.sum(1) > 0
    clients = (counts[has_images] @ shares[tested]) / counts[has_images].sum(1)
    accuracies: list[float | None] = [None] * len(images)
    for client, value in zip(np.flatnonzero(has_images), clients, strict=True):
        accuracies[client] = float(value)
    if not len(clients):
        return {**dict.fromkeys(OF_CLIENTS), "client_accuracy": accuracies}
    spread = (float(clients.mean()), float(clients.min()), float(clients.std()))
    return dict(zip(OF_CLIENTS, (accuracies, *spread), strict=True))


def completed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with the figures that later versions have: what its counts tell, and a reason for what they do not."""
    if "absent" in summary:
        return dict(summary)
    figures: dict[str, Any] = dict(old_and_new(summary["correct"], summary["total"]))
    absent = dict.fromkeys((*OF_CLASSES, *OF_CLIENTS, *STORED), EARLIER)
    absent |= why_no_sequence(summary["correct"], figures)
    return {**summary, **figures, **dict.fromkeys(absent), "absent": absent}


def why_no_sequence(correct: Sequence[Sequence[int]], figures: Mapping[str, Any]) -> dict[str, str]:
    """Reasons for the figures that a run has not for want of a sequence of tasks.

    Args:
        correct: [evaluation][task] correct answers; a single row of several tasks where all were learned at once.
        figures: those of `old_and_new`, which are None where there is one task.
    """
    at_once = dict.fromkeys(SEQUENTIAL, AT_ONCE) if len(correct) < len(correct[-1]) else {}
    alone = any(figures[name] is None for name in OF_TASKS)
    return at_once | (dict.fromkeys((*OF_TASKS, *OF_EARLIER), "there is one task") if alone else {})


def forward_transfer(
    correct: Sequence[Sequence[int]], alone: Sequence[Sequence[int]], total: Sequence[int]
) -> float | None:
    """Mean over all tasks but the first of (accuracy right after learning - that of the task trained alone).

    After Powder (ICML 2024), which tests both over the task's classes; here the former is over all classes seen, as
    every accuracy of a run is, so that it is below 0 also where nothing but the number of classes stands in its way.

    Args:
        correct: [after task t][task s] correct answers of the run.
        alone: the same of the reference run, of which the answers [t][t] count.
        total: (tasks,) test images of each task.

    Returns:
        None where there is one task, or a run has not been evaluated after every task.
    """
    tasks = range(1, len(total))
    if not tasks or any(len(rows) < len(total) or len(rows[t]) <= t for rows in (correct, alone) for t in tasks):
        return None
    return float(np.mean([(correct[t][t] - alone[t][t]) / total[t] for t in tasks]))


class Reached(NamedTuple):
    """A run's standing when its accuracy was first as high as asked, counted from its beginning."""

    task: int
    """Index of the task, from 0."""
    round: int
    """Number of the round in that task, from 1."""
    rounds: int
    """Training rounds of all tasks so far."""
    upload_bytes: int
    download_bytes: int
    accuracy: float
    """The accuracy measured there, as a share."""


def first_reached(events: Iterable[Mapping[str, Any]], accuracy: float, task: int) -> Reached | None:
    """Find the first evaluation in a task whose pooled accuracy over all classes seen is as high as asked.

    Args:
        events: the run's records, in order.
        accuracy: share of correct answers to reach.
        task: index of the task.

    Returns:
        None where no evaluation of that task was as high.

    Raises:
        ConfigError: the task had several rounds and was evaluated at its end alone, so that nobody knows.
    """
    rounds, in_task, evaluated, up, down = 0, 0, 0, 0, 0
    reached = None
    for event in events:
        kind = event["event"]
        if kind == "phase":
            down += event["download_bytes"]
            rounds += event["kind"] == "train"
            in_task += event["kind"] == "train" and event["task"] == task
        elif kind == "merged":
            up += event["upload_bytes"]
        elif kind in ("round", "task") and event["task"] == task:
            evaluated += 1
            if reached is None and event["accuracy"] >= accuracy:
                reached = Reached(task, event["round"], rounds, up, down, event["accuracy"])
    if evaluated == 1 and in_task > 1:
        raise ConfigError(
            f"run.evaluate_rounds: task {task + 1} had {in_task} rounds and was evaluated after the last one alone, so "
            "that the first round to reach an accuracy is not known; make the run with run.evaluate_rounds = true"
        )
    return reached
