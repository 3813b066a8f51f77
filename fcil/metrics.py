"""Accuracy counts -> the figures of class-incremental learning. Pure.

`right[t][s]` counts the test images of task s that are classified correctly after task t, among all classes seen, with
no task id; `total[s]` is how many there are. All accuracies are shares between 0 and 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["accuracy_matrix", "summarise"]


def accuracy_matrix(right: Sequence[Sequence[int]], total: Sequence[int]) -> np.ndarray:
    """(tasks done, tasks): row t, column s is the accuracy on task s after task t; NaN where s was not seen yet."""
    matrix = np.full((len(right), len(total)), np.nan)
    for t, row in enumerate(right):
        matrix[t, : len(row)] = np.asarray(row) / np.asarray(total[: len(row)])
    return matrix


def summarise(right: Sequence[Sequence[int]], total: Sequence[int]) -> Mapping[str, float]:
    """The figures that papers report, of the tasks done so far (at least one).

    - `final_accuracy`: pooled, right / total over all images seen; `final_accuracy_task_mean`: mean over tasks, which
      differs where tasks have unequal sizes.
    - `average_accuracy`: mean over t of the pooled accuracy after task t ("average incremental accuracy").
    - `forgetting`: mean over all tasks but the last of (best accuracy before the end - final) (Chaudhry et al., 2018).
    - `forgetting_from_learned`: mean over *all* tasks of (accuracy right after learning - final), as LoRM's public code
      computes it.
    - `backward_transfer`: mean over all tasks but the last of (final - accuracy right after learning) (Lopez-Paz and
      Ranzato, 2017).
    """
    matrix = accuracy_matrix(right, total)
    last = len(right) - 1
    pooled = [sum(row) / sum(total[: len(row)]) for row in right]
    learned, final = np.diagonal(matrix)[: last + 1], matrix[last, : last + 1]
    best = np.array([np.max(matrix[s:last, s]) for s in range(last)])
    return {
        "final_accuracy": pooled[last],
        "final_accuracy_task_mean": float(final.mean()),
        "average_accuracy": float(np.mean(pooled)),
        "forgetting": float(np.mean(best - final[:last])) if last else 0.0,
        "forgetting_from_learned": float(np.mean(learned - final)),
        "backward_transfer": float(np.mean((final - learned)[:last])) if last else 0.0,
    }
