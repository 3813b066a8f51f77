"""Write all settings of a run out flat, and tell which of them a comparison's file sets for all rows."""

from collections.abc import Mapping
from typing import Any

from fcil.config.layers import Overrides, Source, layers_of, together, without_asides
from fcil.config.sections import Config, to_table
from fcil.options import keys_of
from fcil.registry import build_method

__all__ = ["common_settings", "flat_settings"]


def flat_settings(config: Config) -> dict[str, Any]:
    """All settings of a run, `section.key` -> value, with the defaults of the sections and of the run's method.

    Raises:
        ConfigError: no such method, or settings that it does not admit.
    """
    method = build_method(config.method.name, config.method.settings)
    own = {key: getattr(method, field) for key, field in keys_of(type(method)).items()}
    table = {**to_table(config), "method": {"name": config.method.label, **own}}
    return {
        f"{section}.{key}": list(value) if isinstance(value, tuple) else value
        for section, entries in table.items()
        for key, value in entries.items()
    }


def common_settings(path: Source, overrides: Overrides = ()) -> set[str]:
    """Names, `section.key`, of the settings that a file, its bases or the overrides set for all rows of a comparison.

    The method's name and the seed are none: they are what rows and runs differ in.
    """
    layers = [*without_asides(layers_of(path)), together(overrides)]
    sections = [pair for _, table in layers for pair in table.items() if isinstance(pair[1], Mapping)]
    names = {f"{section}.{key}" for section, entries in sections for key in entries}
    return names - {"method.name", "run.seed"}
