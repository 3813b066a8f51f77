"""Carries out the trials of a search for settings, in this process or in several, and says how each ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcil.config import Overrides, Point, Source, flat_settings
from fcil.data.progress import waiting
from fcil.engine.jobs import Jobs
from fcil.engine.queue import note_failure, reason_of
from fcil.engine.reuse import Reuse
from fcil.engine.search import GivenUp, Search, Trial, Tried
from fcil.engine.search_space import Space
from fcil.engine.signals import leaving_contexts
from fcil.engine.tuning import trials
from fcil.engine.tuning_text import Budget, joined
from fcil.errors import ConfigError, FolderInUse, RunError
from fcil.report.grid_runner import LOOK_SECONDS, Runner, say
from fcil.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from fcil.engine.comparison import Cell
    from fcil.server.plan import Plan

__all__ = ["Searched", "carry_out_search", "join_search", "share_search"]


@dataclass(frozen=True)
class Searched:
    """A method whose settings are searched for: which, how often, and where."""

    config: Source
    label: str
    overrides: Overrides
    budget: Budget
    space: Space
    folder: Path
    most: int
    """Trials in all."""
    prune: bool = True

    def search(self) -> Search:
        """Begin the search, or join it.

        Raises:
            ConfigError: the folder holds another search; or Optuna is missing.
        """
        (first, *_) = self.runs({key: _some(values) for key, values in self.space.items()})
        fixed = {key: value for key, value in flat_settings(first.config).items() if key not in self.space}
        fixed |= {"--seeds": list(self.budget.seeds), "--held-out": self.budget.held_out, "--tasks": self.budget.tasks}
        fixed = {key: value for key, value in fixed.items() if not key.startswith("run.") or key == "run.threads"}
        return Search(self.folder, self.label, self.space, self.budget.seeds[0], fixed, self.prune)

    def runs(self, settings: Mapping[str, Any]) -> list[Cell]:
        """The runs of a trial with these settings."""
        point = Point(tuple(settings.items()), dict.fromkeys(settings, "--grid"))
        return trials(self.config, self.label, self.overrides, self.budget, [point], self.folder)


def _some(values: Any) -> Any:
    """One value of those that are tried."""
    return values.low if hasattr(values, "low") else values[0]


class _Watch:
    """Tells a trial the accuracy of each run after each task, except at the very end."""

    def __init__(self, trial: Trial, runs: int) -> None:
        self.trial, self.runs, self.run = trial, runs, 0

    def __call__(self, plan: Plan, event: Mapping[str, Any]) -> None:
        tasks = len(plan.blocks)
        step = self.run * tasks + event.get("task", 0)
        if event["event"] == "task" and step < self.runs * tasks - 1:
            self.trial.report(step, event["accuracy"])


def _carry_out(searched: Searched, trial: Trial, run: Runner) -> str:
    """Carry out a trial's runs, and say how it ended."""
    runs = searched.runs(trial.settings)
    watch = _Watch(trial, len(runs))
    run.watch, finals = watch, []
    for watch.run, cell in enumerate(runs):
        try:
            finals.append(float(_finished(run, cell)["final_accuracy"]))
        except GivenUp:
            trial.give_up()
            return "given up"
        except ConfigError:
            raise
        except Exception as error:  # whatever a method's code may raise: it is this trial's, and not the others'
            note_failure(cell.folder, reason_of(error))
            return f"failed. {cell.name}: {reason_of(error)}"
    trial.finish(finals)
    return ""


def _finished(run: Runner, cell: Cell) -> Mapping[str, Any]:
    """The figures of a run; another trial with the same settings, which works on it, is waited for."""
    while True:
        try:
            return run(cell)
        except FolderInUse:
            time.sleep(LOOK_SECONDS)


def _line(trial: Tried, label: str) -> str:
    mean = sum(trial.finals) / max(1, len(trial.finals))
    return f"{label}, trial {trial.number}: {'given up at ' if trial.given_up else ''}{100 * mean:.1f} %   " + joined(
        trial.settings
    )


def join_search(searched: Searched, console: Console | None = None, beside_others: bool = True) -> Search:
    """Carry out trials until there are enough, those that killed processes have left among them.

    Raises:
        ConfigError: settings that a run cannot have.
    """
    search = searched.search()
    quiet: Sequence[Cell] = ()
    with closing(Runner(searched.folder, quiet, None, Reuse(), beside_others)) as run:
        while trial := search.next(searched.most):
            text = f"{searched.label}, trial {trial.number} of {searched.most}: {joined(trial.settings)}"
            try:
                with waiting(console, text):
                    failed = _carry_out(searched, trial, run)
            finally:
                trial.let_go()
            if failed.startswith("failed"):
                search.left.add(trial.number)
                say(console, f"{searched.label}, trial {trial.number}: {failed}", style="red")
                continue
            say(console, _line(next(t for t in search.tried() if t.number == trial.number), searched.label))
    return search


def share_search(
    all_searched: Sequence[Searched], jobs: int, command: Sequence[str], out: Path, console: Console | None
) -> None:
    """Let several processes carry out trials, and say how each ended.

    Args:
        command: of fcil, for each process.
    """
    searches = {one.label: one.search() for one in all_searched}
    ended = {(label, trial.number) for label, search in searches.items() for trial in search.tried()}
    out.mkdir(parents=True, exist_ok=True)
    wanted = sum(one.most for one in all_searched)
    with (
        leaving_contexts(), Jobs(out, jobs, command=command) as processes,
        waiting(console, f"{counted(jobs, 'process', 'processes')} loading") as step,
    ):  # fmt: skip
        while processes.running:
            time.sleep(LOOK_SECONDS)
            if ended:
                step(f"{len(ended)} of {counted(wanted, 'trial')} done")
            for label, search in searches.items():
                for trial in search.tried():
                    if (label, trial.number) not in ended:
                        ended.add((label, trial.number))
                        say(console, _line(trial, label))
            for log, code in processes.ended():
                if code:
                    say(console, f"a process ended with exit code {code}; see {log}", style="red")


def carry_out_search(searched: Searched, console: Console | None = None) -> list[Tried]:
    """Carry out what is left of a search, and wait for trials of other processes; returns all trials.

    Raises:
        RunError: trials failed.
    """
    while True:
        search = join_search(searched, console, beside_others=False)
        tried = search.tried()
        remaining_numbers = [
            number for number in range(searched.most) if number not in {trial.number for trial in tried}
        ]
        if not remaining_numbers:
            return tried
        if search.left:
            raise RunError(
                f"{searched.label}: {len(search.left)} of {searched.most} trials failed; see above. The same command "
                "tries them again"
            )
        time.sleep(LOOK_SECONDS)  # other processes work on them, or leave them
