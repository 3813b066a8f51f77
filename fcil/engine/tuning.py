"""Chooses settings of methods by held-out training images of the first tasks, and writes what it chose, and among what.

Test images have no part in it: every run has `data.held_out` and `tasks.first`, and seeds other than those that methods
are compared with later.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fcil.config import Overrides, Source
from fcil.config.layers import together
from fcil.errors import ConfigError, RunError
from fcil.options import describe, toml_or_text
from fcil.registry import method_class

__all__ = ["Budget", "Choice", "choose", "grid_of", "trial_settings", "tuned_file"]


@dataclass(frozen=True)
class Budget:
    """By what and how often settings are tried; the same for every method that is tuned alike."""

    seeds: tuple[int, ...] = (100,)
    held_out: float = 0.2
    """Share of each class's training images that accuracy is measured on."""
    tasks: int = 2
    """Tasks that are carried out; 0 for all."""

    def words(self, points: int) -> str:
        """Say it in the caption of a table."""
        tasks = f"the first {self.tasks} tasks" if self.tasks else "all tasks"
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"on {points} settings x {seeds}, {100 * self.held_out:g} % of the training images of {tasks} held out"


@dataclass(frozen=True)
class Choice:
    """The settings that were best for a method, and all that were tried."""

    label: str
    settings: Mapping[str, Any]
    """section.key -> value."""
    tried: Sequence[tuple[Mapping[str, Any], float, float]]
    """(settings, mean final accuracy of their runs, its sample standard deviation, NaN for one), in their order."""


def trial_settings(budget: Budget) -> list[str]:
    """The settings of every trial, `section.key=value`."""
    return [f"data.held_out={budget.held_out!r}", f"tasks.first={budget.tasks}"]


def grid_of(name: str, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts of a grid that a method has, and the names of settings that it lacks.

    Args:
        name: the method, as the registry finds it.
        texts: `section.key=value,value`.
    """
    keys = {setting.name for setting in describe(method_class(name))}
    settings = {text: text.partition("=")[0].strip() for text in texts}
    lacking = [
        key for key in settings.values() if key.startswith("method.") and key.removeprefix("method.") not in keys
    ]
    return [text for text, key in settings.items() if key not in lacking], lacking


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
    tried, best = [], -np.inf
    chosen: Mapping[str, Any] | None = None
    for group in groups.values():
        settings = {key: group[0]["swept"][key] for key in keys}
        final = np.array([run["final_accuracy"] for run in group])
        spread = float(final.std(ddof=1)) if len(final) > 1 else float("nan")
        tried.append((settings, float(final.mean()), spread))
        if len(final) == needed and final.mean() > best:
            best, chosen = float(final.mean()), settings
    if chosen is None:
        raise RunError(f"{label}: none of the settings has all of its {needed} runs; the same command tries again")
    return Choice(label, chosen, tried)


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
    for section, entries in together(overrides)[1].items():
        table[section] = {**table.get(section, {}), **entries}
    rows: dict[str, Any] = {}
    for choice in choices:
        row: dict[str, Any] = {"tuned": budget.words(len(choice.tried))}
        for key, value in choice.settings.items():
            section, _, name = key.partition(".")
            row.setdefault(section, {})[name] = toml_or_text(value) if isinstance(value, str) else value
        rows[choice.label] = row
    lines = ["# Settings that `fcil tune` chose. Compare with them: fcil compare THIS_FILE", "#"]
    for choice in choices:
        lines += [f"# {choice.label}: final accuracy on the images held out, mean of all runs"]
        lines += [f"#   {_line(*trial)}" for trial in choice.tried] + ["#"]
    try:
        return "\n".join(lines) + "\n" + tomli_w.dumps({**table, "compare": rows})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{out}: settings that TOML cannot hold ({error})") from None


def _line(settings: Mapping[str, Any], mean: float, spread: float) -> str:
    told = ", ".join(f"{key} = {value}" for key, value in settings.items())
    return f"{100 * mean:5.1f}{'' if np.isnan(spread) else f' +- {100 * spread:.1f}'} %   {told}"
