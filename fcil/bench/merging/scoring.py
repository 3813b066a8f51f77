"""Scores -> accuracies. Pure.

One pass gives the scores of all classes; every question is a choice of classes. Only the samples and only the scores of
those classes count: one task's for its own accuracy, those of all merged tasks for joint accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

__all__ = ["Scored", "accuracy", "highest", "hits", "mean_probabilities"]


@dataclass(frozen=True)
class Scored:
    """What a model says of some samples."""

    scores: np.ndarray
    """(n, classes), in the class order."""
    labels: np.ndarray
    """(n,) class positions."""

    def ranks(self, classes: Sequence[int]) -> np.ndarray:
        """Place of the true class among `classes`, from 0, for each sample of those classes.

        Of equal scores the first class comes first, as in `argmax`. A sample with a score that is not finite has the
        last place: what a merge has ruined counts as wrong.
        """
        mine = np.isin(self.labels, classes)
        scores, labels = self.scores[mine][:, list(classes)], self.labels[mine]
        column = np.array([list(classes).index(label) for label in labels.tolist()], np.int64)[:, None]
        true = np.take_along_axis(scores, column, 1)
        before = (scores == true) & (np.arange(len(classes)) < column)
        found = ((scores > true) | before).sum(1)
        return np.asarray(np.where(np.isfinite(scores).all(1), found, len(classes)))


def hits(scored: Scored, classes: Sequence[int], k: int) -> float:
    """Hits@k: share of the samples of `classes` whose true class is among the k highest of `classes`."""
    return float(np.mean(scored.ranks(classes) < k))


def accuracy(scored: Scored, classes: Sequence[int]) -> float:
    """Hits@1."""
    return hits(scored, classes, 1)


def mean_probabilities(experts: Sequence[Scored]) -> Scored:
    """An ensemble: the mean of the experts' probabilities, each over all classes."""
    return Scored(np.mean([softmax(e.scores.astype(np.float64), 1) for e in experts], 0), experts[0].labels)


def highest(experts: Sequence[Scored], own: Sequence[Sequence[int]]) -> Scored:
    """An ensemble: every class has the probability that its own expert gives it among that expert's classes.

    Args:
        own: for each expert, the classes that it was trained on; a class that is nobody's has no probability.
    """
    scores = np.full(experts[0].scores.shape, -1.0)
    for expert, classes in zip(experts, own, strict=True):
        scores[:, list(classes)] = softmax(expert.scores[:, list(classes)].astype(np.float64), 1)
    return Scored(scores, experts[0].labels)
