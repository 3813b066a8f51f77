"""Searches for settings with Optuna: each trial's settings are proposed by what earlier ones ended in.

The trials of a method are in a journal that Optuna keeps in the method's folder, so that any number of processes may
take part, on all machines that see the folder. Whoever works on a trial locks it; one that a killed process has left is
taken over. What is proposed depends on seed, method, number of the trial and those before it, not on the process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fcil.engine.folder_lock import open_locked
from fcil.engine.search_space import Range, Space, rounded, written
from fcil.errors import ConfigError, FolderInUse
from fcil.seeding import generator

__all__ = ["JOURNAL", "GivenUp", "Search", "Trial", "Tried"]

JOURNAL = "optuna.journal"
LOCKS = "trials"
"""Folder of the trials' locks."""
RANDOM = 8
"""Trials at random before the others are proposed by those."""
UNPRUNED = 5
"""Finished trials without which none is given up early."""
FINALS, OF = "final accuracies", "what is searched for"
PAUSE = 0.1


class GivenUp(Exception):
    """A trial is not worth going on with: at the same point, half of the finished ones were better."""


@dataclass(frozen=True)
class Tried:
    """A trial that has ended."""

    number: int
    settings: Mapping[str, Any]
    finals: Sequence[float]
    """Final accuracy of each of its runs, as shares; of one that was given up early the last accuracy seen."""
    given_up: bool


def optuna() -> Any:
    """Import Optuna, which is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
        import optuna.storages.journal
    except ImportError as error:
        raise ConfigError(
            f"--trials: settings are searched for with Optuna, which is missing ({error}); install it with "
            '`pip install "fcil[optuna]"`, or list the values to try and leave --trials out'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass
class Trial:
    """A trial that this process works on, and holds the lock of."""

    number: int
    settings: Mapping[str, Any]
    _trial: Any = field(repr=False)
    _study: Any = field(repr=False)
    _lock: BinaryIO = field(repr=False)

    def report(self, step: int, accuracy: float) -> None:
        """Say what accuracy the trial has at a step, from 0: the same steps in all trials.

        Raises:
            GivenUp: the median of the finished trials is higher there.
        """
        # Optuna compares the best value up to a step. Accuracy falls from task to task, so that the best would always
        # be the first; with the step added, it is the last
        self._trial.report(step + accuracy, step)
        if self._trial.should_prune():
            raise GivenUp

    def finish(self, finals: Sequence[float]) -> None:
        """Tell the final accuracies of its runs, and let the trial go."""
        self._trial.set_user_attr(FINALS, list(finals))
        self._study.tell(self._trial, sum(finals) / len(finals))
        self.let_go()

    def give_up(self) -> None:
        """Tell that the trial was given up, and let it go."""
        self._study.tell(self._trial, state=optuna().trial.TrialState.PRUNED)
        self.let_go()

    def let_go(self) -> None:
        """Unlock the trial; one that has not ended is anybody's."""
        self._lock.close()


class Search:
    """The trials of one method, among processes that share its folder."""

    def __init__(
        self, folder: Path, label: str, space: Space, seed: int, settings: Mapping[str, Any], prune: bool = True
    ) -> None:
        """Begin a search, or join the one in the folder.

        Args:
            settings: all else that the results depend on, to tell one search from another.
            prune: whether trials that are behind are given up.

        Raises:
            ConfigError: Optuna is missing; or the folder holds another search.
        """
        self.folder, self.label, self.space, self.seed = folder, label, space, seed
        self._optuna = optuna()
        self.left: set[int] = set()
        """Trials that failed in this process, which it does not try again."""
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        pruners = self._optuna.pruners
        backend = self._optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
        with self._alone():
            self._study = self._optuna.create_study(
                storage=self._optuna.storages.journal.JournalStorage(backend), study_name=label, direction="maximize",
                pruner=pruners.MedianPruner(n_startup_trials=UNPRUNED) if prune else pruners.NopPruner(),
                load_if_exists=True,
            )  # fmt: skip
            self._check_same({"space": written(space), "seed": seed, "settings": dict(settings)})

    def _check_same(self, ours: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(ours))
        theirs = self._study.user_attrs.get(OF)
        if theirs is None:
            self._study.set_user_attr(OF, ours)
            return
        names = [f"--grid {key}" for key in _unlike(ours["space"], theirs["space"])]
        names += [*(["--seeds"] if ours["seed"] != theirs["seed"] else [])]
        names += _unlike(ours["settings"], theirs["settings"])
        if names:
            raise ConfigError(
                f"{self.folder}: holds another search, which differs in {', '.join(names)}; choose another --output, "
                "or delete the folder"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other processes from beginning a trial in the meantime."""
        while True:
            try:
                file = open_locked(self.folder / LOCKS / "beginning.lock")
                break
            except FolderInUse:
                time.sleep(PAUSE)
        try:
            yield
        finally:
            file.close()

    def next(self, most: int) -> Trial | None:
        """The next trial to work on: one that somebody has left, or a new one; None where there are enough.

        Args:
            most: trials in all, those that were given up included.
        """
        with self._alone():
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.number not in self.left and (taken := self._taken_over(trial.number)):
                    return taken
            if len(trials) >= most:
                return None
            return self._begun(len(trials), None, open_locked(self._lock(len(trials))))

    def _lock(self, number: int) -> Path:
        return self.folder / LOCKS / f"{number}.lock"

    def _taken_over(self, number: int) -> Trial | None:
        """A trial that has not ended and that nobody works on."""
        if self._is_over(number):
            return None
        try:
            lock = open_locked(self._lock(number))
        except FolderInUse:
            return None
        frozen = self._study.get_trials(deepcopy=False)[number]
        if frozen.state.is_finished():  # by who held the lock until now
            lock.close()
            return None
        return self._begun(number, frozen, lock)

    def _is_over(self, number: int) -> bool:
        over: bool = self._study.get_trials(deepcopy=False)[number].state.is_finished()
        return over

    def _begun(self, number: int, frozen: Any, lock: BinaryIO) -> Trial:
        """A trial with its settings: those that it has, or as the sampler of its number proposes them."""
        seed = int(generator(self.seed, "tune", self.label, number).integers(2**31))
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
        trial = self._study.ask() if frozen is None else self._optuna.trial.Trial(self._study, frozen._trial_id)
        for key, values in self.space.items():
            if not isinstance(values, Range):
                trial.suggest_categorical(key, [json.dumps(value) for value in values])
            elif values.whole:
                trial.suggest_int(key, values.low, values.high, log=values.log)
            else:
                trial.suggest_float(key, values.low, values.high, log=values.log)
        return Trial(number, self._settings(trial.params), trial, self._study, lock)

    def _settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: rounded(params[key], values) if isinstance(values, Range) else json.loads(params[key])
            for key, values in self.space.items()
        }

    def tried(self) -> list[Tried]:
        """All trials that have ended, in their order."""
        over = []
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                last = trial.last_step
                last_figure = [] if last is None else [trial.intermediate_values[last] - last]
                finals = trial.user_attrs.get(FINALS)
                over.append(Tried(trial.number, self._settings(trial.params), finals or last_figure, finals is None))
        return over


def _unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
