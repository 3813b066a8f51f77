"""Chooses settings of methods by held-out training images of the first tasks, and writes what it chose, and among what.

Test images have no part in it: every run has `data.held_out` and `tasks.first`, and seeds other than those that methods
are compared with later.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fcil.config import Config, Overrides, Point, Source, unlike
from fcil.config.layers import together
from fcil.engine.comparison import Cell, cells
from fcil.engine.search import Tried
from fcil.engine.search_space import Range, space_of
from fcil.engine.tuning_text import ROUNDING, Budget, Choice, given_up_lines, tried_lines
from fcil.errors import ConfigError, RunError
from fcil.options import toml_or_text
from fcil.scenario.tasks import number_of_tasks
from fcil.words import counted

__all__ = [
    "Budget", "Choice", "best_of", "choose", "grid_of", "other_than_tried", "trial_settings", "trials", "tuned_file",
]  # fmt: skip


def trial_settings(budget: Budget) -> list[str]:
    """The settings of every trial, `section.key=value`."""
    instead = f"data.held_out={budget.held_out!r}" if budget.held_out else "data.evaluate_on=validation"
    return [instead, f"tasks.first={budget.tasks}"]


def grid_of(name: str, texts: Sequence[str]) -> tuple[list[Point], list[str]]:
    """Every combination of a grid's values that a method has settings for, and the names of settings that it lacks.

    Args:
        name: the method, as the registry finds it.
        texts: `section.key=value,value`.

    Raises:
        ConfigError: a text is no setting with values, or two are of one setting; or it is a range.
    """
    values, lacking = space_of(name, texts)
    for key, value in values.items():
        if isinstance(value, Range):
            raise ConfigError(f"--grid {key}: a range is searched, which takes --trials N; or list values to try")
    lists = [list_ for list_ in values.values() if not isinstance(list_, Range)]
    places = dict.fromkeys(values, "--grid")
    return [Point(tuple(zip(values, combination, strict=True)), places) for combination in product(*lists)], lacking


def trials(
    config: Source, label: str, overrides: Overrides, budget: Budget, grid: Sequence[Point], out: Path
) -> list[Cell]:
    """The runs of all trials of a method: each setting of the grid, at each point that the configuration sweeps over.

    Raises:
        ConfigError: a run cannot have these settings, or has fewer tasks than are to be tried; or the configuration
            sweeps over one that is to be chosen.
    """
    runs = []
    for tried in grid:
        settings = [*overrides, *trial_settings(budget), *tried.overrides]
        for cell in cells(config, [label], budget.seeds, settings, out, places=tried.places):
            there = number_of_tasks(cell.config.tasks)
            if budget.tasks > there:
                raise ConfigError(f"--tasks {budget.tasks}: {cell.name} has {counted(there, 'task')}; try fewer")
            point = Point((*tried.settings, *cell.point.settings))
            runs.append(replace(cell, point=point, folder=out / point.name / cell.folder.name))
    return runs


def choose(label: str, runs: Sequence[Mapping[str, Any]], keys: Sequence[str], needed: int) -> Choice:
    """Choose the settings with the highest mean final accuracy; of equal ones those that were tried first.

    Where the configuration sweeps over other settings, a skew say, the mean is over these too: one choice for all.

    Args:
        runs: figures of the finished runs of one method, as `fcil.engine.comparison.figures` gives them.
        keys: the settings that are chosen, section.key.
        needed: runs that a choice must have: seeds x values of other settings.

    Raises:
        RunError: no settings have all their runs.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run["swept"][key] for key in keys]), []).append(run)
    tried, whole, best = [], [], -np.inf
    chosen: Mapping[str, Any] | None = None
    for group in groups.values():
        settings = {key: group[0]["swept"][key] for key in keys}
        final = np.array([run["final_accuracy"] for run in group])
        spread = float(final.std(ddof=1)) if len(final) > 1 else float("nan")
        tried.append((settings, float(final.mean()), spread))
        whole.append(len(final) == needed)
        if whole[-1] and final.mean() > best + ROUNDING:
            best, chosen = float(final.mean()), settings
    if chosen is None:
        raise RunError(f"{label}: none of the settings has all of its {needed} runs; the same command tries again")
    return Choice(label, chosen, tried, whole)


def best_of(label: str, tried: Sequence[Tried]) -> Choice:
    """Choose as `choose` does, among the trials of a search.

    Raises:
        RunError: none was carried out to its end.
    """
    whole: list[Tried] = []
    for trial in tried:
        if not trial.given_up and trial.settings not in [other.settings for other in whole]:
            whole.append(trial)
    if not whole:
        raise RunError(f"{label}: no trial has all of its runs; the same command tries again")
    means = [float(np.mean(trial.finals)) for trial in whole]
    spreads = [float(np.std(t.finals, ddof=1)) if len(t.finals) > 1 else float("nan") for t in whole]
    rows = [(trial.settings, mean, spread) for trial, mean, spread in zip(whole, means, spreads, strict=True)]
    best = next(settings for settings, mean, _ in rows if mean >= max(means) - ROUNDING)  # the first of equal ones
    given_up = [trial for trial in tried if trial.given_up]
    return Choice(label, best, rows, [True] * len(rows), given_up, searched=True)


def tuned_file(config: Source, overrides: Overrides, choices: Sequence[Choice], budget: Budget, out: Path) -> str:
    """Write a comparison with a row for each choice, on top of the configuration that was tuned; what was tried in it.

    Args:
        config: the path of the configuration, or its settings.
        overrides: what --set changed in it.
        out: the folder in which the file will lie.

    Raises:
        ConfigError: the settings cannot be written as TOML.
    """
    table: dict[str, Any] = {}
    if isinstance(config, Path):
        table["base"] = os.path.relpath(config, out)
    else:
        table |= {name: dict(entries) for name, entries in config.items()}
    changed = together(overrides)[1]
    for section, entries in changed.items():
        if section != "method":  # which would be another method's in the other rows
            table[section] = {**table.get(section, {}), **entries}
    rows: dict[str, Any] = {}
    for choice in choices:
        # in the row too: what a row of the configuration says would win over what stands above it
        row: dict[str, Any] = {"tuned": budget.words(len(choice.tried) + len(choice.given_up), choice.how)}
        row |= {section: dict(entries) for section, entries in changed.items()}
        for key, value in choice.settings.items():
            section, _, name = key.partition(".")
            row.setdefault(section, {})[name] = toml_or_text(value) if isinstance(value, str) else value
        rows[choice.label] = row
    lines = ["# Settings that `fcil tune` chose. Compare with them: fcil compare THIS_FILE", "#"]
    images = "the images held out" if budget.held_out else "the validation part"
    for choice in choices:
        lines += [f"# {choice.label}: final accuracy on {images}, mean of all runs"]
        lines += [f"# {line}" for line in (*tried_lines(choice), *given_up_lines(choice))] + ["#"]
    try:
        return "\n".join(lines) + "\n" + tomli_w.dumps({**table, "compare": rows})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{out}: settings that TOML cannot hold ({error})") from None


def other_than_tried(tried: Config, compared: Config) -> list[str]:
    """Names of settings in which a row of the file differs from its trial, beside those that are a trial's own."""
    settings_of_trials = {"data.held_out", "data.evaluate_on", "tasks.first", "run.seed"}
    return [name for name in unlike(tried, compared) if name not in settings_of_trials]
