"""A run that lies in a folder, finished or not, as an object: its figures, its arrays and its pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from fcil.arrays import State
from fcil.config import Config
from fcil.engine.checkpoints import read_progress
from fcil.engine.figures import AT_ONCE, Reached, class_matrix, first_reached
from fcil.engine.reading import read_census, read_events, read_matrix
from fcil.engine.records import PLOTS, read_config, read_summary
from fcil.errors import ConfigError
from fcil.report.form import FORMATS
from fcil.report.frames import frame
from fcil.report.further_figures import FIGURES, further_figures
from fcil.report.html import html_table
from fcil.report.missing_updates import missing_updates
from fcil.report.tables import run_figures
from fcil.report.units import MEGA, percent
from fcil.scenario.census import Census
from fcil.scenario.tasks import number_of_tasks
from fcil.words import counted

__all__ = ["Run"]

NO_SITES = "no clients evaluate on test images of their own"


@dataclass(frozen=True, repr=False)
class Run:
    """One run, as its folder has it. What is read once stays: open a run that goes on elsewhere again to see more.

    Accuracies are shares between 0 and 1, each class told from all classes seen, without a task's number. Figures that
    a run does not have are NaN: those of the end before it has come, and forgetting where all classes come at once.
    """

    folder: Path

    @cached_property
    def config(self) -> Config:
        """All settings, defaults included. Raises ConfigError where the folder holds no run."""
        return read_config(self.folder)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Every figure of the finished run, as in summary.json; empty before the end."""
        return read_summary(self.folder) or {}

    @cached_property
    def _totals(self) -> dict[str, Any]:
        """Bytes, updates and seconds: of the finished run, or up to its newest checkpoint."""
        if self.finished:
            return self.summary
        progress = read_progress(self.folder)
        totals = dict(progress.totals) if progress else {}
        seconds = {name.removeprefix("seconds_"): s for name, s in totals.items() if name.startswith("seconds_")}
        return {**totals, "seconds": seconds}

    @property
    def finished(self) -> bool:
        """Tell whether the run has ended; if not, `fcil.run(run.config, output=run.folder)` goes on with it."""
        return bool(self.summary)

    @property
    def method(self) -> str:
        """Return the name of the run's method."""
        return self.config.method.name

    @property
    def seed(self) -> int:
        """The seed from which every draw is derived."""
        return self.config.run.seed

    @cached_property
    def census(self) -> Census | None:
        """The images of each class that every client holds, counted; None of a run that an earlier version recorded."""
        return read_census(self.folder)

    @cached_property
    def accuracy(self) -> np.ndarray:
        """Accuracy after each task (rows) on each task (columns), (tasks done, tasks); NaN for tasks not seen yet."""
        return read_matrix(self.folder)

    @cached_property
    def accuracies(self) -> np.ndarray:
        """Accuracy over all test images of the classes seen, after each task, (tasks done,)."""
        pooled = np.full(len(self.accuracy), np.nan)
        for event in self.events:
            if event["event"] == "task" and event["task"] < len(pooled):
                pooled[event["task"]] = event["accuracy"]
        return pooled

    def _figure(self, name: str) -> float:
        value = self.summary.get(name)
        return nan if value is None else float(value)

    @property
    def final_accuracy(self) -> float:
        """Accuracy over all test images when the last task is done."""
        return self._figure("final_accuracy")

    @property
    def average_accuracy(self) -> float:
        """Mean of `accuracies`, the "average incremental accuracy"."""
        return self._figure("average_accuracy")

    @property
    def forgetting(self) -> float:
        """Mean over all tasks but the last of the best accuracy before the end less the final one."""
        return self._figure("forgetting")

    @cached_property
    def figures(self) -> dict[str, float]:
        """Every figure that is one number, by its name in docs/figures.md; NaN for what the run does not have."""
        return {name: self._figure(name) for name in FIGURES}

    @property
    def absent(self) -> dict[str, str]:
        """The figures of docs/figures.md that a finished run does not have, each with the reason."""
        if not self.finished:
            return {}
        lacking = [name for name in FIGURES if self.summary.get(name) is None]
        plain = {name: NO_SITES if name.startswith("site") else AT_ONCE for name in lacking}
        return {**plain, **self.summary.get("absent", {})}

    @cached_property
    def class_accuracy(self) -> np.ndarray:
        """Accuracy of each class, in the order of arrival, after each task, (tasks done, classes seen).

        NaN for classes not seen yet, for those without test images, and where answers were not counted by class.
        """
        rows = {e["task"]: e for e in self.events if e["event"] == "task" and "class_correct" in e}
        classes = max((len(event["class_total"]) for event in rows.values()), default=0)
        matrix = np.full((len(self.accuracy), classes), np.nan)
        for task, event in rows.items():
            if task < len(matrix):
                row = class_matrix([event["class_correct"]], event["class_total"])[0]
                matrix[task, : len(row)] = row
        return matrix

    def first_reached(self, accuracy: float, task: int = -1) -> Reached | None:
        """Find the round in which the accuracy over all classes seen first was as high as `accuracy`, and its cost.

        Args:
            accuracy: a share between 0 and 1.
            task: index of the task whose rounds are looked at; by default the last one, when all classes are seen.

        Returns:
            Rounds and bytes from the beginning of the run; None where it was never as high.

        Raises:
            ConfigError: the run was not evaluated after every round (`run.evaluate_rounds`).
        """
        last = number_of_tasks(self.config.tasks) - 1
        return first_reached(self.events, accuracy, task if task >= 0 else last)

    @property
    def upload_bytes(self) -> int:
        """Bytes sent by all clients, so far."""
        return int(self._totals.get("upload_bytes", 0))

    @property
    def download_bytes(self) -> int:
        """Bytes sent to all clients, so far."""
        return int(self._totals.get("download_bytes", 0))

    @property
    def seconds(self) -> float:
        """Seconds that the run took so far, pauses left out."""
        return float(self._totals.get("seconds", {}).get("total", 0.0))

    @property
    def refused(self) -> int:
        """Number of missing updates: refused, or never arrived."""
        return int(self._totals.get("refused", 0))

    @property
    def filtered(self) -> int:
        """Number of good updates that `run.filter` kept from the merge."""
        return int(self._totals.get("filtered", 0))

    @property
    def asked(self) -> int:
        """Number of updates that the whole run asks for; 0 where that is not known, as before its end."""
        return int(self.summary.get("asked", 0))

    @property
    def sha256(self) -> str:
        """SHA-256 of the final state's arrays: two runs with the same have done the same; empty before the end."""
        return str(self.summary.get("sha256", ""))

    @property
    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, from the beginning: what happened, phase by phase and client by client."""
        return read_events(self.folder)

    @property
    def plots(self) -> list[Path]:
        """The pictures that were drawn when the run was finished."""
        return sorted(path for kind in FORMATS for path in (self.folder / PLOTS).glob(f"*.{kind}"))

    def state(self) -> State:
        """The server's arrays after the last phase done: group -> name -> array.

        Raises:
            ConfigError: there is no checkpoint, or none that is whole.
        """
        progress = read_progress(self.folder)
        if progress is None:
            raise ConfigError(f"{self.folder}: has no good checkpoint; the run has not done its first phase")
        return progress.state

    def export(self, out: str | Path) -> Path:
        """Write what the run has learned as weights of its backbone with one linear head, which timm loads.

        Raises:
            ConfigError: the run is in the middle of a task, or predicts by more than weights and a linear head.
        """
        from fcil.engine.export import export  # which imports torch

        export(self.folder, Path(out))
        return Path(out)

    def to_pandas(self) -> dict[str, Any]:
        """Convert to DataFrames: `accuracy` (rows: after a task, columns: of a task), `figures` (one row) and `events`.

        Raises:
            ImportError: pandas is not installed.
        """
        matrix, names = self.accuracy, ("final_accuracy", "average_accuracy", "forgetting")
        columns = {f"task_{s + 1}": column.tolist() for s, column in enumerate(matrix.T)}
        counts = {name: getattr(self, name) for name in ("upload_bytes", "download_bytes", "seconds", "refused")}
        return {
            "accuracy": frame({"after_task": list(range(1, len(matrix) + 1)), **columns}),
            "figures": frame([
                {"method": self.method, "seed": self.seed, **{n: getattr(self, n) for n in names}, **counts}
            ]),
            "events": frame(list(self.events)),
        }  # fmt: skip

    @property
    def missing(self) -> str:
        """The number of updates that the run went without, in words; empty if none is missing."""
        return missing_updates([self._totals])

    @property
    def title(self) -> str:
        """The method and seed of the run, how far it is unless it is finished, and how many updates it lacks."""
        tasks = number_of_tasks(self.config.tasks)
        done = "" if self.finished else f", not finished: {len(self.accuracy)} of {counted(tasks, 'task')} done"
        return ", ".join(filter(None, [f"{self.config.method.label}, seed {self.seed}{done}", self.missing]))

    def __repr__(self) -> str:
        """Show what the run is, how it ended and what it took, in up to three lines."""
        up, down = self.upload_bytes / MEGA, self.download_bytes / MEGA
        traffic = f"{up:.2f} MB up, {down:.2f} MB down, {self.seconds:.0f} s"
        figures = (
            f"  final accuracy {percent(self.final_accuracy)} %, average {percent(self.average_accuracy)} %, "
            f"forgetting {percent(self.forgetting)} points\n"
        )
        return f"<Run {self.folder}: {self.title}>\n{figures if self.finished else ''}  {traffic}"

    def _repr_html_(self) -> str:
        """Show two small tables in a notebook: accuracy by task, and the figures."""
        matrix, pooled = self.accuracy, self.accuracies
        rows = [
            (str(t + 1), percent(matrix[t, t]), percent(matrix[-1, t]), percent(accuracy))
            for t, accuracy in enumerate(pooled)
        ]
        last = "at the end" if self.finished else "now"
        tasks = html_table(
            f"{self.title}: accuracy [%]", ("task", "when learned", last, "all seen so far"), rows
        )  # fmt: skip
        if not self.finished:
            return tasks
        figures = run_figures(self.summary) + further_figures(self.summary)
        return tasks + html_table(str(self.folder), (), figures)
