"""What is asked of every model: accuracy on each task, beside the task's own expert's, and on all tasks together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.arrays import Arrays
from fcil.bench.merging.fine_tuning import Tuned
from fcil.bench.merging.scoring import Scored, accuracy, highest, hits, mean_probabilities
from fcil.bench.merging.setup import Part, Stage
from fcil.errors import RunError
from fcil.method import Method

__all__ = ["HITS", "Judge", "Result", "references"]

HITS = (1, 3, 5)
GUESSING = 1.2
"""An expert is doubted below this many times the accuracy of guessing."""


@dataclass(frozen=True)
class Result:
    """One line of one seed. All accuracies are shares between 0 and 1, on the test part."""

    model: str
    seed: int
    tasks: tuple[int, ...]
    """What was merged."""
    label: str
    merge: bool
    """Whether it is a merge, or something to compare merges with."""
    settings: str
    """As chosen on held-out images."""
    accuracy: tuple[float, ...]
    """Per task, among the task's own classes."""
    own: tuple[float, ...]
    """The same of each task's own expert."""
    hits: tuple[float, ...]
    """Joint Hits@1, 3, 5 over the classes of the tasks merged."""
    seconds: float = 0.0
    """Of the server, for merging."""

    @property
    def normalised(self) -> tuple[float, ...]:
        """Accuracy per task over that of its own expert."""
        return tuple(a / own for a, own in zip(self.accuracy, self.own, strict=True))

    @property
    def held_in(self) -> float:
        """Mean normalised accuracy of the tasks merged."""
        return float(np.mean([self.normalised[t] for t in self.tasks]))

    @property
    def held_out(self) -> float:
        """Mean normalised accuracy of the other tasks, under their own experts' head rows; NaN if there are none."""
        others = [a for t, a in enumerate(self.normalised) if t not in self.tasks]
        return float(np.mean(others)) if others and self.merge else float("nan")


class Judge:
    """Asks of every model the same, on one part of the data."""

    def __init__(self, stage: Stage, experts: Sequence[Tuned], part: Part) -> None:
        self.stage, self.part = stage, part
        self.tasks = [e.task for e in experts]
        self.heads: Arrays = {name: a for e in experts for name, a in e.head.items()}
        self.alone = [self.scores(stage.plan.method, e.module) for e in experts]
        self.own = [accuracy(s, t.positions) for s, t in zip(self.alone, self.tasks, strict=True)]
        if lost := [t.index + 1 for t, a in zip(self.tasks, self.own, strict=True) if not a > 0]:
            raise RunError(
                f"the expert of task {lost[0]} has no correct answer on the {part} images, so nothing can be "
                "normalised by it; train longer (train.rounds, train.epochs) or with more images"
            )

    def doubts(self) -> Iterator[str]:
        """What to say of experts that are hardly better than guessing among their own classes."""
        for task, own in zip(self.tasks, self.own, strict=True):
            if task.size > 1 and own < GUESSING / task.size:
                yield (
                    f"the expert of task {task.index + 1} is right on {100 * own:.1f} % of its own {self.part} images, "
                    f"where guessing gives {100 / task.size:.1f} %: shares of that mean little; try a lower train.lr, "
                    "or train longer"
                )

    def scores(self, method: Method, arrays: Arrays) -> Scored:
        """Of a model; where it has no head rows of a task, those of the task's expert."""
        return self.stage.scores(method, {**self.heads, **arrays}, self.part)

    def classes(self, tasks: Sequence[int]) -> list[int]:
        """Of some tasks."""
        return [c for t in tasks for c in self.tasks[t].positions]

    def normalised(self, scored: Scored) -> tuple[float, ...]:
        """Per task."""
        return tuple(accuracy(scored, t.positions) / own for t, own in zip(self.tasks, self.own, strict=True))

    def value(self, scored: Scored, tasks: Sequence[int], choose: str) -> float:
        """What settings are chosen by."""
        if choose == "hits":
            return accuracy(scored, self.classes(tasks))
        each = self.normalised(scored)
        return float(np.mean([each[t] for t in tasks]))

    def result(
        self, model: str, tasks: tuple[int, ...], label: str, scored: Scored, candidate: str = "", seconds: float = -1.0
    ) -> Result:
        """A line of the table; `seconds` of a merge, none of a reference."""
        return Result(
            model, self.stage.config.run.seed, tasks, label, seconds >= 0, candidate,
            tuple(accuracy(scored, t.positions) for t in self.tasks), tuple(self.own),
            tuple(hits(scored, self.classes(tasks), k) for k in HITS), max(seconds, 0.0),
        )  # fmt: skip


def references(judge: Judge, model: str, tasks: tuple[int, ...]) -> Iterator[Result]:
    """What merges are compared with: each expert alone, their ensembles, and W0 with the experts' head rows."""
    for t in tasks if len(tasks) == len(judge.tasks) else ():  # of a draw, another one in each seed
        yield judge.result(model, tasks, f"expert {t + 1} alone", judge.alone[t])
    mine = [judge.alone[t] for t in tasks]
    yield judge.result(model, tasks, "ensemble, mean", mean_probabilities(mine))
    yield judge.result(model, tasks, "ensemble, highest", highest(mine, [judge.tasks[t].positions for t in tasks]))
    yield judge.result(model, tasks, "W0, experts' heads", judge.scores(judge.stage.plan.method, {}))
