"""Values of a sweep x methods x seeds: the runs of a comparison, re-using finished ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcil.config import Config, load_variant, sweep_overrides, variant_names
from fcil.engine.checks import check_settings
from fcil.errors import ConfigError

if TYPE_CHECKING:
    from fcil.engine.simulation import Session

__all__ = ["Cell", "carry_out", "cells"]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    seed: int
    folder: Path
    config: Config
    value: str = ""
    """Of the setting that is swept over, `section.key=value`; each has a folder, a table and plots of its own."""

    def session(self) -> Session:
        """Checked and ready."""
        from fcil.engine.simulation import prepare  # which imports torch

        return prepare(self.config, self.folder)


def folder_name(label: str) -> str:
    """A label as a part of a folder's name: as it is, or where it holds a path or a class, its end and a hash."""
    if not re.search(r"[/:\\]", label):
        return label
    end = re.sub(r"[^\w.=+-]+", "-", label.rpartition("/")[2]).strip("-.")
    return f"{end}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def cells(path: Path, labels: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], out: Path) -> list[Cell]:
    """All runs of a comparison, every one of them checked before the first begins; one value of a sweep after another.

    Args:
        labels: methods, or variants that the file describes under [compare.<label>]; all of those if empty.

    Raises:
        ConfigError: nothing to compare, a doubled label or seed, or settings that one of the runs cannot have.
    """
    labels = list(labels) or variant_names(path)
    if not labels:
        raise ConfigError(f"{path}: nothing to compare; give --methods a,b or describe variants as [compare.<label>]")
    for what, given in (("--methods", labels), ("--seeds", [str(seed) for seed in seeds])):
        if len(set(given)) < len(given):
            raise ConfigError(f"{what} {','.join(given)}: names one twice")
    swept = sweep_overrides(path, overrides)
    made = [
        Cell(
            label,
            seed,
            out / value / f"{folder_name(label)}-seed{seed}",
            load_variant(path, label, [*overrides, *([value] if value else []), f"run.seed={seed}"]),
            value,
        )
        for value in swept or [""]
        for label in labels
        for seed in seeds
    ]
    for cell in made:
        check_settings(cell.config)  # of all runs, before the first look at data and weights
    for cell in made:
        cell.session()
    return made


def carry_out(made: Sequence[Cell], one: Callable[[Cell], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The figures of every run, each with its label."""
    for cell in made:
        yield {**one(cell), "label": cell.label, "seed": cell.seed, "value": cell.value}
