"""Lays out and carries out the runs of a comparison: points of a sweep x methods x seeds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcil.config import (
    Config,
    Overrides,
    Point,
    RowFacts,
    Source,
    Sweep,
    canonical,
    common_settings,
    flat_settings,
    grid,
    labels_of,
    load_variant,
    row_call,
    row_facts,
    row_has_method,
    rows_have_bases,
    variant_names,
)  # fmt: skip
from fcil.config.layers import together
from fcil.engine.checks import check_settings
from fcil.engine.same_settings import same_key
from fcil.errors import ConfigError
from fcil.options import nearest
from fcil.registry import installed_names, label, method_class, method_names
from fcil.scenario.partition import READ_BY
from fcil.server.plan import phase_weights

if TYPE_CHECKING:
    from fcil.engine.simulation import Session
    from fcil.exchange.shared import Shared

__all__ = ["LAYING_OUT", "Cell", "cells", "figures", "folder_name", "published_shares", "short_titles"]

LAYING_OUT = "loading code, data and weights, and checking every run"
"""What goes on before the first run of a comparison begins."""


LABEL_LENGTH = 150
"""Characters of a label that the name of a folder may hold."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    seed: int
    folder: Path
    config: Config
    point: Point = field(default_factory=Point)
    """Values of the settings that are swept over; each point has a folder, a table and plots of its own."""
    facts: RowFacts = field(default_factory=RowFacts)
    """What the comparison's file says of the row beside settings: a published figure."""

    common: frozenset[str] = frozenset()
    """Names, `section.key`, of the settings that the comparison's file sets for all rows."""
    work: tuple[float, ...] = ()
    """Work of each phase, as `fcil.server.plan.phase_weights` estimates it."""
    kin: tuple[str, ...] = ()
    """For each phase a text, equal for runs whose clients do the same work in it; empty where that cannot be told."""

    @property
    def value(self) -> str:
        """Name of the point, `section.key=value`; empty without a sweep."""
        return self.point.name

    def session(self, shared: Shared | None = None) -> Session:
        """Check the run and make it ready, with what other runs of this process have loaded or computed."""
        from fcil.engine.simulation import prepare  # which imports torch

        return prepare(self.config, self.folder, shared=shared)

    @property
    def name(self) -> str:
        """The run in words: its point of the sweep, label and seed."""
        return ", ".join(filter(None, [self.value, self.label, f"seed {self.seed}"]))


def folder_name(label: str) -> str:
    """A label as a part of a folder's name: as it is, or a hash after its end if it is long or a path or class."""
    if not re.search(r"[/:\\]", label) and len(label) <= LABEL_LENGTH:
        return label
    end = re.sub(r"[^\w.=+-]+", "-", label.rpartition("/")[2]).strip("-.")[:LABEL_LENGTH]
    return f"{end}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _check_swept(cell: Cell) -> None:
    """Raise ConfigError where a swept setting means nothing to the run's split: its rows would be one experiment."""
    kind = cell.config.partition.kind
    for name, _ in cell.point.settings:
        section, _, key = name.partition(".")
        if section == "partition" and kind not in READ_BY.get(key, (kind,)):
            raise ConfigError(
                f'{name} is swept over: it has no meaning with kind = "{kind}", so that all its values would be the '
                f"same split; it is for {' and '.join(READ_BY[key])}"
            )


def _distinct_labels(path: Source, labels: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The labels of the rows, all that the file describes if none is named; checks that no label or seed is doubled."""
    labels = [canonical(path, label) for label in labels] or variant_names(path)
    if not labels:
        source = path if isinstance(path, Path) else "settings"
        raise ConfigError(f"{source}: nothing to compare; give --methods a,b or describe variants as [compare.<label>]")
    for what, names in (("--methods", labels), ("--seeds", [str(seed) for seed in seeds])):
        if len(set(names)) < len(names):
            raise ConfigError(f"{what} {','.join(names)}: names one twice")
    return labels


def cells(
    path: Source,
    labels: Sequence[str],
    seeds: Sequence[int],
    overrides: Overrides,
    out: Path,
    sweep: Sweep = (),
    places: Mapping[str, str] | None = None,
) -> list[Cell]:
    """Lay out all runs of a comparison, one point of a sweep after another, and check them before the first begins.

    Args:
        labels: methods, or variants that the file describes under [compare.<label>]; all of those if empty. Both may
            have settings of the method in brackets, `lorm(rank = 4)`.
        sweep: settings to sweep over, beside those of the file; see `fcil.config.grid`.
        places: of overrides that came from elsewhere than --set, section.key -> where from, for messages.

    Raises:
        ConfigError: nothing to compare, a doubled label or seed, or settings that one of the runs cannot have.
    """
    labels = _distinct_labels(path, labels, seeds)
    points = grid(path, overrides, sweep, places)
    for name in labels:
        _check_label(path, name, overrides, points[0])
    common = frozenset(common_settings(path, overrides))

    def run_of(point: Point, label: str, seed: int) -> Cell:
        folder = out / point.name / f"{folder_name(label)}-seed{seed}"
        of_run = [*point.overrides, f"run.seed={seed}"]
        config = load_variant(path, label, overrides, of_run, places={**(places or {}), **point.places})
        return Cell(label, seed, folder, config, point, row_facts(path, label), common)

    runs = [run_of(point, label, seed) for point in points for label in labels for seed in seeds]
    for cell in runs:
        _check_swept(cell)
        check_settings(cell.config)  # of all runs, before the first look at data and weights
    from fcil.exchange.shared import Shared  # which imports torch

    shared = Shared()  # neighbours have the same data and backbone, as a rule
    return [_measured(cell, shared) for cell in runs]


def _measured(cell: Cell, shared: Shared) -> Cell:
    """Make the run ready, and note how much work it is and what its clients begin with.

    Raises:
        ConfigError: the run cannot be carried out.
    """
    from fcil.exchange.update_key import kin  # which imports torch

    plan = cell.session(shared).plan
    return replace(cell, work=tuple(phase_weights(plan)), kin=kin(plan.config, plan.method, plan.phases))


def _check_label(path: Source, label: str, overrides: Overrides, point: Point) -> None:
    """Check that a label names a row or a method, and that nothing else sets what its brackets set.

    Raises:
        ConfigError: it does not, with the nearest name; or --set or a sweep would win over it.
    """
    name, settings = row_call(path, label)
    _check_name(path, label, name)
    where, table = together(overrides)
    others = {f"method.{key}": where for key in table.get("method", {})} | dict(point.places)
    if twice := [key for key in settings if f"method.{key}" in others]:
        key = f"method.{twice[0]}"
        raise ConfigError(f"--methods {label}: {others[key]} {key} gives another value; leave one of the two out")


def _check_name(path: Source, label: str, name: str) -> None:
    """Check that a label's name is that of a row or a method, and that a row has a method.

    Raises:
        ConfigError: it is not, with the nearest name.
    """
    rows, methods = labels_of(path), {*method_names(), *installed_names()}
    if name not in rows and rows_have_bases(path):
        raise ConfigError(
            f"--methods {label}: {path if isinstance(path, Path) else 'the configuration'} is a table of runs, each "
            f"with a base of its own, and a method that is no row has none. {nearest(name, rows)}"
        )
    if name in methods or re.search(r"[/:]|\.py$", name):
        return
    if name not in rows:
        row = f", nor a row [compare.{name}] in {path}" if rows and isinstance(path, Path) else ""
        raise ConfigError(f"--methods {label}: no such method{row}. {nearest(name, rows | methods)}")
    if not row_has_method(path, name):
        source = f"{path}: " if isinstance(path, Path) else ""
        raise ConfigError(
            f"{source}[compare.{name}]: a row is the method of its own name unless it names another, and no method is "
            f"called {name!r}. Write [compare.{name}.method] with its name. {nearest(name, methods)}"
        )


def short_titles(labels: Sequence[str]) -> dict[str, str]:
    """Shorten labels for tables and pictures: of a path its last part, where no other label would look the same.

    >>> short_titles(["lorm", "/a/der.py"])
    {'lorm': 'lorm', '/a/der.py': 'der.py'}
    >>> short_titles(["/a/der.py", "/b/der.py"])
    {'/a/der.py': '/a/der.py', '/b/der.py': '/b/der.py'}
    """
    short = {name: label(name) for name in labels}
    shown = list(short.values())
    return {name: title if shown.count(title) == 1 else name for name, title in short.items()}


def figures(runs: Sequence[Cell], summaries: Mapping[Path, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the figures of each run that is finished, in the order of the runs, with its label, seed and point.

    Those of a row with a published figure have it too, as a share, with the tolerance beside it. `settings` are all
    settings of the run, `common` those among them that the file sets for all rows.

    Args:
        summaries: run folder -> the figures of the finished run.
    """
    titles = short_titles(list(dict.fromkeys(cell.label for cell in runs)))
    done = []
    for cell in runs:
        if cell.folder not in summaries:
            continue
        settings = flat_settings(cell.config)
        done.append({
            **summaries[cell.folder],
            "settings": settings,
            "common": {name: value for name, value in settings.items() if name in cell.common},
            "label": titles[cell.label],
            "seed": cell.seed,
            "value": cell.value,
            **_stream(cell.config.method.name),
            "swept": dict(cell.point.settings),
            "tuned": cell.facts.tuned,
            "same": same_key(settings, cell.config.method.name),
            **published_shares(cell),
        })  # fmt: skip
    return done


def _stream(name: str) -> dict[str, str]:
    """Tell who holds the data, of shipped methods only: no file of the user's is imported to make a table."""
    return {"stream": method_class(name).stream} if name in method_names() else {}


def published_shares(cell: Cell) -> dict[str, float | None]:
    """Return the row's published figure and its tolerance, as shares; None where the file gives none."""
    shares = {"published": cell.facts.published, "tolerance": cell.facts.tolerance}
    return {name: None if percent is None else percent / 100 for name, percent in shares.items()}
