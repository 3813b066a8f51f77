"""Holds what `fcil tune` chose and by what, and says it in words: the settings, and which were as good or nearly so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcil.engine.search import Tried
from fcil.words import counted

__all__ = [
    "ROUNDING", "Budget", "Choice", "choice_lines", "given_up_lines", "joined", "marks", "tried_lines",
]  # fmt: skip

CHOSEN, EQUAL, WITHIN = "chosen", "equal to the chosen one", "within the chosen one's spread"
ROUNDING = 1e-9
"""Difference of two shares that is no more than rounding."""


@dataclass(frozen=True)
class Budget:
    """The seeds, images and tasks by which settings are chosen; the same for every method that is tuned alike."""

    seeds: tuple[int, ...] = (100,)
    held_out: float = 0.2
    """Share of each class's training images that accuracy is measured on; 0: on the set's own validation part."""
    tasks: int = 2
    """Tasks that are carried out."""

    def words(self, points: int, how: str = "") -> str:
        """Say it in the caption of a table.

        Args:
            points: settings that were tried.
            how: they were found, in brackets.
        """
        tasks = "the first task" if self.tasks == 1 else f"the first {self.tasks} tasks"
        seeds = f"{counted(len(self.seeds), 'seed')} ({', '.join(map(str, self.seeds))})"
        images = f"{100 * self.held_out:g} % of the training images of {tasks} held out"
        images = images if self.held_out else f"on the validation part of {tasks}"
        return f"on {counted(points, 'setting')}{how} x {seeds}, {images}"


@dataclass(frozen=True)
class Choice:
    """The settings that were best for a method, and all that were tried."""

    label: str
    settings: Mapping[str, Any]
    """section.key -> value."""
    tried: Sequence[tuple[Mapping[str, Any], float, float]]
    """(settings, mean final accuracy of their runs, its sample standard deviation, NaN for one), in their order."""
    whole: Sequence[bool]
    """Whether each of them has all its runs; no other may be chosen."""
    given_up: Sequence[Tried] = ()
    """Trials of a search that were not carried out to their end."""
    searched: bool = False
    """Whether the settings were searched for, by what earlier ones ended in, in place of a grid."""

    @property
    def how(self) -> str:
        """Say how the settings were found, in brackets; nothing of a grid."""
        early = f", {len(self.given_up)} of them given up early" if self.given_up else ""
        return f" (searched with Optuna{early})" if self.searched else ""

    @property
    def count(self) -> int:
        """Number of settings that were tried."""
        return len(self.tried) + len(self.given_up)


def setting_line(key: str, value: Any) -> str:
    """Write a setting as a line of a configuration: `train.lr = 0.003`."""
    return f"{key} = {json.dumps(value, default=str)}"


def joined(settings: Mapping[str, Any]) -> str:
    """Write settings in one line."""
    return ", ".join(setting_line(key, value) for key, value in settings.items())


def marks(choice: Choice) -> list[str]:
    """Say of each of the settings that were tried how it stands to the chosen one; empty where it is worse.

    Worse by no more than one sample standard deviation of the chosen one's runs is within its spread. Settings that
    lack runs are not compared.
    """
    ((best, spread),) = [(mean, std) for settings, mean, std in choice.tried if settings == choice.settings]
    texts = []
    for (settings, mean, _), whole in zip(choice.tried, choice.whole, strict=True):
        if settings == choice.settings:
            texts.append(CHOSEN)
        elif not whole:
            texts.append("lacks runs, so not compared")
        elif best - mean <= ROUNDING:
            texts.append(EQUAL)
        else:
            texts.append(WITHIN if best - mean <= np.nan_to_num(spread) else "")
    return texts


def tried_lines(choice: Choice) -> list[str]:
    """Write a line for each of the settings that were tried, in their order: accuracy, settings, and its mark."""
    pairs = zip(choice.tried, marks(choice), strict=True)
    return [
        f"{_accuracy(mean, std):>13}   {joined(settings)}{f'   ({mark})' * bool(mark)}"
        for (settings, mean, std), mark in pairs
    ]


def given_up_lines(choice: Choice) -> list[str]:
    """Write a line for each trial that was given up, with the accuracy at which it was."""
    return [
        f"{'given up':>13}   {joined(trial.settings)}   (at {100 * trial.finals[-1]:.1f} %)"
        for trial in choice.given_up
    ]


def _accuracy(mean: float, spread: float) -> str:
    return f"{100 * mean:.1f}{'' if np.isnan(spread) else f' ± {100 * spread:.1f}'} %"


def choice_lines(choice: Choice, budget: Budget) -> list[str]:
    """Say what was chosen for a method, a setting a line, and how sure that is."""
    ((mean, spread),) = [(mean, std) for settings, mean, std in choice.tried if settings == choice.settings]
    images = "the images held out" if budget.held_out else "the validation part"
    early = f" ({len(choice.given_up)} given up early)" if choice.given_up else ""
    highest = f"the highest of {choice.count} settings tried{early}, with"
    lines = [f"{choice.label}: {_accuracy(mean, spread)} on {images}, {highest}"]
    lines += [f"  {setting_line(key, value)}" for key, value in choice.settings.items()]
    rows = list(zip(choice.tried, marks(choice), strict=True))
    equal = [settings for (settings, _, _), mark in rows if mark == EQUAL]
    near = [
        f"{joined(settings)} ({_accuracy(deviation, std)})"
        for (settings, deviation, std), mark in rows
        if mark == WITHIN
    ]
    if equal:
        lines.append(f"  a tie, and this is the first of {len(equal) + 1} equal ones; the others: {_several(equal)}")
    if near:
        lines.append(f"  within its spread, so that seeds alone may decide: {'; '.join(near)}")
    if np.isnan(spread) and len(rows) > 1:
        lines.append("  one run of each: how much of a difference is chance is not known (--seeds 100,101,102)")
    return lines


def _several(settings: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(map(joined, settings))
