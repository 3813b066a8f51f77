"""Computes the figures of class-incremental learning from counts of correct answers; pure functions.

A row of `correct` counts, for each task seen so far, the test images that are classified correctly among all classes
seen, with no task id; `total[s]` is how many task s has. There is a row after every task or, where all classes are
learned at once, only the one after the last. All accuracies are shares between 0 and 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["SEQUENTIAL", "accuracy_matrix", "at_sites", "pooled_accuracies", "summarise"]

SEQUENTIAL = ("average_accuracy", "forgetting", "forgetting_from_learned", "backward_transfer")
"""Names of the figures that need an evaluation after every task."""


def accuracy_matrix(correct: Sequence[Sequence[int]], total: Sequence[int]) -> np.ndarray:
    """Accuracies, (tasks done, tasks): row t, column s is the accuracy on task s after task t.

    NaN where s was not seen yet, and in the rows of tasks after which nothing was evaluated.
    """
    matrix = np.full((len(correct[-1]) if correct else 0, len(total)), np.nan)
    for row in correct:
        matrix[len(row) - 1, : len(row)] = np.asarray(row) / np.asarray(total[: len(row)])
    return matrix


def pooled_accuracies(correct: Sequence[Sequence[int]], total: Sequence[int]) -> np.ndarray:
    """Accuracies, (tasks done,): correct / total of all images seen after a task; NaN where nothing was evaluated."""
    pooled = np.full(len(correct[-1]) if correct else 0, np.nan)
    for row in correct:
        pooled[len(row) - 1] = sum(row) / sum(total[: len(row)])
    return pooled


def summarise(correct: Sequence[Sequence[int]], total: Sequence[int]) -> Mapping[str, float | None]:
    """Compute the figures that papers report, of the tasks done so far (at least one).

    All but the first two are None where all classes were learned at once: they are about a sequence. After one task,
    means over all tasks but the last are None too: there is none.

    - `final_accuracy`: pooled, correct / total over all images seen; `final_accuracy_task_mean`: mean over tasks, which
      differs where tasks have unequal sizes.
    - `average_accuracy`: mean over t of the pooled accuracy after task t ("average incremental accuracy").
    - `forgetting`: mean over all tasks but the last of (best accuracy before the end - final) (Chaudhry et al., 2018).
    - `forgetting_from_learned`: mean over *all* tasks of (accuracy right after learning - final), as LoRM's public code
      computes it.
    - `backward_transfer`: mean over all tasks but the last of (final - accuracy right after learning) (Lopez-Paz and
      Ranzato, 2017).
    """
    matrix = accuracy_matrix(correct, total)
    last = len(matrix) - 1
    pooled = pooled_accuracies(correct, total)
    learned, final = np.diagonal(matrix)[: last + 1], matrix[last, : last + 1]
    at_the_end = {"final_accuracy": float(pooled[last]), "final_accuracy_task_mean": float(final.mean())}
    if len(correct) <= last:
        return {**at_the_end, **dict.fromkeys(SEQUENTIAL)}
    best = np.array([np.max(matrix[s:last, s]) for s in range(last)])
    return {
        **at_the_end,
        "average_accuracy": float(np.mean(pooled)),
        "forgetting": float(np.mean(best - final[:last])) if last else None,
        "forgetting_from_learned": float(np.mean(learned - final)),
        "backward_transfer": float(np.mean((final - learned)[:last])) if last else None,
    }


def at_sites(correct: Sequence[Sequence[int]], total: Sequence[Sequence[int]]) -> Mapping[str, object]:
    """Compute the accuracy of every site on its own test images, and the mean and worst over sites that have any.

    Args:
        correct: (sites, tasks) correct answers after the last task done.
        total: (sites, tasks) test images.

    Returns:
        `site_accuracy`, a list with None for a site without test images of these tasks; `site_accuracy_mean`, in which
        every site counts alike; `site_accuracy_worst`.
    """
    shares = [sum(c) / sum(t[: len(c)]) if sum(t[: len(c)]) else None for c, t in zip(correct, total, strict=True)]
    tested = [share for share in shares if share is not None]
    return {
        "site_accuracy": shares,
        "site_accuracy_mean": float(np.mean(tested)) if tested else None,
        "site_accuracy_worst": min(tested) if tested else None,
    }
