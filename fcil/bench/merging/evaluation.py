"""Evaluate every model alike: accuracy on each task, relative to the task's expert, and on all tasks jointly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays
from fcil.bench.merging.fine_tuning import TrainedExpert
from fcil.bench.merging.scoring import Scores, accuracy, highest_probability, hits, mean_probabilities
from fcil.bench.merging.setup import BenchSetup, Part
from fcil.errors import RunError
from fcil.method import Method

__all__ = ["HITS", "Evaluator", "Result", "reference_results"]

HITS = (1, 3, 5)
CHANCE_FACTOR = 1.2
"""An expert gets a warning below this many times the accuracy of guessing."""


@dataclass(frozen=True)
class Result:
    """The test accuracies of one model in one seed. All accuracies are shares between 0 and 1."""

    model: str
    seed: int
    tasks: tuple[int, ...]
    """Indices of the tasks whose experts were merged."""
    label: str
    merge: bool
    """True for a merge, false for a reference to compare merges with."""
    settings: str
    """Settings chosen on held-out images; empty if none were tried."""
    accuracy: tuple[float, ...]
    """Accuracy on each task among the task's own classes."""
    own: tuple[float, ...]
    """Accuracy of each task's own expert, measured alike."""
    hits: tuple[float, ...]
    """Joint Hits@1, 3, 5 over the classes of the tasks merged."""
    seconds: float = 0.0
    """Seconds of the merge on the server."""

    @property
    def normalised(self) -> tuple[float, ...]:
        """Accuracy on each task divided by that of the task's own expert."""
        return tuple(a / expert for a, expert in zip(self.accuracy, self.own, strict=True))

    @property
    def on_merged_tasks(self) -> float:
        """Mean normalised accuracy on the tasks merged."""
        return float(np.mean([self.normalised[t] for t in self.tasks]))

    @property
    def on_other_tasks(self) -> float:
        """Mean normalised accuracy on the other tasks, under their own experts' head rows; NaN if there are none."""
        others = [a for t, a in enumerate(self.normalised) if t not in self.tasks]
        return float(np.mean(others)) if others and self.merge else float("nan")


class Evaluator:
    """Evaluates models on one part of the data, relative to the experts."""

    def __init__(self, setup: BenchSetup, experts: Sequence[TrainedExpert], part: Part) -> None:
        self.setup, self.part = setup, part
        self.tasks = [e.task for e in experts]
        self.heads: Arrays = {name: a for e in experts for name, a in e.head.items()}
        self.expert_scores = [self.scores(setup.plan.method, e.module) for e in experts]
        self.expert_accuracy = [accuracy(s, t.positions) for s, t in zip(self.expert_scores, self.tasks, strict=True)]
        if bad := [t.index + 1 for t, a in zip(self.tasks, self.expert_accuracy, strict=True) if not a > 0]:
            raise RunError(
                f"the expert of task {bad[0]} has no correct answer on the {part} images, so nothing can be "
                "normalised by it; train longer (train.rounds, train.epochs) or with more images"
            )

    def weak_expert_warnings(self) -> Iterator[str]:
        """Warn of experts that are hardly better than guessing among their own classes."""
        for task, a in zip(self.tasks, self.expert_accuracy, strict=True):
            if task.size > 1 and a < CHANCE_FACTOR / task.size:
                yield (
                    f"the expert of task {task.index + 1} is right on {100 * a:.1f} % of its own {self.part} images, "
                    f"where guessing gives {100 / task.size:.1f} %: shares of that mean little; try a lower train.lr, "
                    "or train longer"
                )

    def scores(self, method: Method, arrays: Arrays) -> Scores:
        """Score the images with a model; head rows that it lacks are those of the tasks' experts."""
        return self.setup.scores(method, {**self.heads, **arrays}, self.part)

    def classes(self, tasks: Sequence[int]) -> list[int]:
        """Positions of the classes of some tasks."""
        return [c for t in tasks for c in self.tasks[t].positions]

    def normalised(self, scores: Scores) -> tuple[float, ...]:
        """Accuracy on each task divided by that of the task's own expert."""
        return tuple(
            accuracy(scores, t.positions) / expert for t, expert in zip(self.tasks, self.expert_accuracy, strict=True)
        )

    def criterion(self, scores: Scores, tasks: Sequence[int], choose: str) -> float:
        """Compute the value by which settings are chosen, higher being better: see `bench.choose`."""
        if choose == "hits":
            return accuracy(scores, self.classes(tasks))
        normalised = self.normalised(scores)
        return float(np.mean([normalised[t] for t in tasks]))

    def result(
        self, model: str, tasks: tuple[int, ...], label: str, scores: Scores, candidate: str = "", seconds: float = -1.0
    ) -> Result:
        """Evaluate scores into one line of the table; a negative `seconds` marks a reference, which is no merge."""
        return Result(
            model, self.setup.config.run.seed, tasks, label, seconds >= 0, candidate,
            tuple(accuracy(scores, t.positions) for t in self.tasks), tuple(self.expert_accuracy),
            tuple(hits(scores, self.classes(tasks), k) for k in HITS), max(seconds, 0.0),
        )  # fmt: skip


def reference_results(evaluator: Evaluator, model: str, tasks: tuple[int, ...]) -> Iterator[Result]:
    """Evaluate what merges are compared with: experts alone, their ensembles, and W0 with the experts' head rows."""
    for t in tasks if len(tasks) == len(evaluator.tasks) else ():  # not for a draw, which differs between seeds
        yield evaluator.result(model, tasks, f"expert {t + 1} alone", evaluator.expert_scores[t])
    drawn = [evaluator.expert_scores[t] for t in tasks]
    yield evaluator.result(model, tasks, "ensemble, mean", mean_probabilities(drawn))
    yield evaluator.result(
        model, tasks, "ensemble, highest", highest_probability(drawn, [evaluator.tasks[t].positions for t in tasks])
    )
    yield evaluator.result(model, tasks, "W0, experts' heads", evaluator.scores(evaluator.setup.plan.method, {}))
