"""Compute accuracies and ensembles from class scores, by pure functions.

One pass gives the scores of all classes; a measure is over some classes. Only the samples and only the scores of those
classes count: one task's for its own accuracy, those of all merged tasks for joint accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

__all__ = ["Scores", "accuracy", "highest_probability", "hits", "mean_probabilities"]


@dataclass(frozen=True)
class Scores:
    """A model's class scores of some samples, and the true labels."""

    scores: np.ndarray
    """(n, classes), in the class order."""
    labels: np.ndarray
    """(n,) class positions."""

    def ranks(self, classes: Sequence[int]) -> np.ndarray:
        """Rank the true class among `classes`, from 0, for each sample of those classes.

        Of equal scores the first class comes first, as in `argmax`. A sample with a score that is not finite has the
        last rank: what a merge has ruined counts as wrong.
        """
        members = np.isin(self.labels, classes)
        scores, labels = self.scores[members][:, list(classes)], self.labels[members]
        column = np.array([list(classes).index(label) for label in labels.tolist()], np.int64)[:, None]
        true = np.take_along_axis(scores, column, 1)
        before = (scores == true) & (np.arange(len(classes)) < column)
        ranks = ((scores > true) | before).sum(1)
        return np.asarray(np.where(np.isfinite(scores).all(1), ranks, len(classes)))


def hits(scores: Scores, classes: Sequence[int], k: int) -> float:
    """Compute Hits@k: share of the samples of `classes` whose true class is among the k highest of `classes`."""
    return float(np.mean(scores.ranks(classes) < k))


def accuracy(scores: Scores, classes: Sequence[int]) -> float:
    """Compute Hits@1: share of the samples of `classes` whose true class is the highest of `classes`."""
    return hits(scores, classes, 1)


def mean_probabilities(experts: Sequence[Scores]) -> Scores:
    """Ensemble the experts by the mean of their probabilities, each over all classes."""
    return Scores(np.mean([softmax(e.scores.astype(np.float64), 1) for e in experts], 0), experts[0].labels)


def highest_probability(experts: Sequence[Scores], classes: Sequence[Sequence[int]]) -> Scores:
    """Ensemble the experts: every class has the probability that its own expert gives it among that expert's classes.

    Args:
        classes: for each expert, the classes that it was trained on; a class of no expert scores -1, below all others.
    """
    scores = np.full(experts[0].scores.shape, -1.0)
    for expert, trained in zip(experts, classes, strict=True):
        scores[:, list(trained)] = softmax(expert.scores[:, list(trained)].astype(np.float64), 1)
    return Scores(scores, experts[0].labels)
