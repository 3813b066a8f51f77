"""Read `[bench]`: which merges, which of their settings are tried, how many experts, which backbones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from fcil.config import BENCH, Config, from_table, load_config, load_section, to_table
from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import Option, keys_of, parse, parse_call
from fcil.registry import build_method, method_class

__all__ = ["Bench", "Candidate", "Entry", "Suite", "load_suite", "make_entry"]

GRID, MODELS = "grid", "models"
SHARED = ("rank", "adapter")
"""Settings of the method that trains the experts, which merges have too."""
SINGLE_CLIENT = {
    "partition": {"clients": 1, "kind": "iid", "min_samples": 1},
    "run": {
        "exchange": "inline",
        "min_clients": 1,
        "aggregate_on_worker": False,
        "secure_sums": False,
        "filter": "none",
    },
}
"""An expert sees all of its task's data, in this process: nothing is federated."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """`[bench]`: the merging benchmark; [bench.grid.METHOD] and [bench.models.LABEL] beside it."""

    methods: Annotated[tuple[str, ...], Option("merges over tasks: a method, or with settings, name(key = value)")] = ()
    held_out: Annotated[
        float, Option("share of each class's training images that settings are chosen on", above=0, high=0.9)
    ] = 0.2
    choose: Annotated[
        Literal["normalised", "hits"],
        Option("best on the held-out images: mean normalised accuracy of the tasks, or joint Hits@1"),
    ] = "normalised"
    experts: Annotated[
        tuple[int, ...], Option("how many experts are merged, drawn by the seed; all unless given", low=1)
    ] = ()


@dataclass(frozen=True)
class Candidate:
    """A method with one choice of the settings that are tried."""

    settings: Mapping[str, Any]
    """What the grid chose; empty where nothing is tried."""
    method: Method

    def __str__(self) -> str:
        return ", ".join(f"{key} = {value}" for key, value in self.settings.items())


@dataclass(frozen=True)
class Entry:
    """One line of the benchmark's table: a merge as written in bench.methods, and the candidates tried."""

    text: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Suite:
    """A whole benchmark with its settings checked."""

    bench: Bench
    entries: tuple[Entry, ...]
    configs: Mapping[str, Config]
    """Backbone's label -> settings of its fine-tuning."""

    def config(self, label: str, seed: int) -> Config:
        """Settings of a backbone's fine-tuning with one seed."""
        config = self.configs[label]
        return replace(config, run=replace(config.run, seed=seed))


def _parse_method(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """Parse a method that exists and its settings, which are not yet checked."""
    name, settings = parse_call(text, where)
    method_class(name, where)
    return name, settings


def make_entry(
    text: str, grids: Mapping[str, Mapping[str, Sequence[Any]]], shared: Mapping[str, Any], path: str
) -> Entry:
    """Make the candidates of a merge: all choices of a grid's values for the settings that `text` leaves open.

    Args:
        grids: method, or the whole text of a line, which wins -> setting -> values to try.
        shared: settings that every method gets if it has them and `text` does not name them.
        path: file to name in messages.

    Raises:
        ConfigError: no such method, or settings that it does not admit.
    """
    name, settings = _parse_method(text, f"{path}: bench.methods: {text!r}")
    keys = keys_of(method_class(name))
    settings = {**{key: value for key, value in shared.items() if key in keys}, **settings}
    section = text if text in grids else name
    grid = {key: values for key, values in grids.get(section, {}).items() if key not in settings}

    def where(key: str) -> str:
        return f"{path}: bench.{GRID}.{section}.{key}" if key in grid else f"{path}: bench.methods: {text!r}: {key}"

    choices = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return Entry(text, tuple(Candidate(c, build_method(name, {**settings, **c}, where)) for c in choices))


def _tables(layers: Sequence[tuple[str, dict[str, Any]]], section: str) -> dict[str, dict[str, Any]]:
    """Collect the tables under [bench.<section>.<label>] of all layers, later keys winning."""
    tables: dict[str, dict[str, Any]] = {}
    for source, table in layers:
        labels = table.get(section, {})
        if not isinstance(labels, dict):
            raise ConfigError(f"{source}: bench.{section} = {labels!r}: must be sections, [bench.{section}.NAME]")
        for label, entries in labels.items():
            if not isinstance(entries, dict):
                raise ConfigError(f"{source}: bench.{section}.{label}: must be a section, [bench.{section}.{label}]")
            tables.setdefault(label, {}).update(entries)
    return tables


def _grids(layers: Sequence[tuple[str, dict[str, Any]]], path: Path) -> dict[str, dict[str, Any]]:
    grids = _tables(layers, GRID)
    for name, grid in grids.items():
        _parse_method(name, f"{path}: bench.{GRID}.{name}")  # a misspelt grid would choose nothing
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"{path}: bench.{GRID}.{name}.{key} = {values!r}: must be a list of values to try")
    return grids


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a benchmark from a file, its bases and overrides, those of `bench.` among them.

    Raises:
        ConfigError: names the place, the key and the remedy.
    """
    of_bench = [text for text in overrides if text.strip().startswith(f"{BENCH}.")]
    layers = load_section(path, BENCH, of_bench)
    plain = {key: (v, source) for source, t in layers for key, v in t.items() if key not in (GRID, MODELS)}
    bench = parse(Bench, {key: v for key, (v, _) in plain.items()}, lambda key: f"{plain[key][1]}: {BENCH}.{key}")
    if not bench.methods:
        raise ConfigError(f'{path}: nothing to compare; name merges in [bench], methods = ["ties(top = 0.2)", ...]')
    for key, values in (("methods", bench.methods), ("experts", bench.experts)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{path}: bench.{key} = {list(values)}: names one twice")
    config = load_config(path, [text for text in overrides if text not in of_bench])
    base = [(str(path), to_table(config)), ("fcil merge-bench", SINGLE_CLIENT)]
    models = _tables(layers, MODELS) or {config.model.backbone: {}}
    configs = {
        label: from_table([*base, (f"{path}: [bench.{MODELS}.{label}]", {"model": entries})])
        for label, entries in models.items()
    }
    trainer = build_method(config.method.name, config.method.settings)
    shared = {key: getattr(trainer, field) for key, field in keys_of(type(trainer)).items() if key in SHARED}
    grids = _grids(layers, path)
    return Suite(bench, tuple(make_entry(text, grids, shared, str(path)) for text in bench.methods), configs)
