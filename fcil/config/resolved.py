"""Flattens settings to `section.key`, compares those of two runs, and tells which a file sets for all rows."""

from collections.abc import Mapping
from typing import Any

from fcil.config.layers import Overrides, Source, layers_of, together, without_asides
from fcil.config.sections import Config
from fcil.config.tables import identity, to_table
from fcil.options import keys_of
from fcil.registry import build_method

__all__ = ["common_settings", "flat", "flat_settings", "unlike"]


def flat(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Flatten a table of settings to `section.key` -> value."""
    return {f"{section}.{key}": value for section, entries in table.items() for key, value in entries.items()}


def flat_settings(config: Config) -> dict[str, Any]:
    """All settings of a run, `section.key` -> value, with the defaults of the sections and of the run's method.

    Raises:
        ConfigError: no such method, or settings that it does not admit.
    """
    method = build_method(config.method.name, config.method.settings)
    settings = {key: getattr(method, field) for key, field in keys_of(type(method)).items()}
    table = {**to_table(config), "method": {"name": config.method.label, **settings}}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flat(table).items()}


def unlike(one: Config, other: Config) -> list[str]:
    """Names of the settings, of those that numbers depend on, of which two runs have different values."""
    a, b = (flat(identity(to_table(config))) for config in (one, other))
    return sorted(name for name in a | b if a.get(name) != b.get(name))


def common_settings(path: Source, overrides: Overrides = ()) -> set[str]:
    """Names, `section.key`, of the settings that a file, its bases or the overrides set for all rows of a comparison.

    The method's name and the seed are none: they are what rows and runs differ in.
    """
    layers = [*without_asides(layers_of(path)), together(overrides)]
    sections = [{name: value for name, value in table.items() if isinstance(value, Mapping)} for _, table in layers]
    return {name for table in sections for name in flat(table)} - {"method.name", "run.seed"}
