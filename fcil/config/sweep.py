"""Read what is swept over, from [sweep] in a file and from --sweep, and lay it out as the points of a grid."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from fcil.config.layers import SWEEP, Overrides, Source, layers_of, together
from fcil.errors import ConfigError
from fcil.options import split_list, toml_or_text

__all__ = ["Point", "Sweep", "grid", "swept_settings"]

Sweep = Sequence[str] | Mapping[str, Any]
"""What is swept over beside the file's [sweep]: texts `section.key=value,value`, or setting -> list of values."""
ZIP = "zip"
NAME_LENGTH = 150
"""Characters that the name of a point may have, since it names a folder; of a longer one the rest is a hash."""


@dataclass(frozen=True)
class Point:
    """One value of each setting that is swept over; none without a sweep."""

    settings: tuple[tuple[str, Any], ...] = ()
    """(section.key, value), in the order in which the settings are swept over."""
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """section.key -> where its values were given, for messages: --sweep, --grid or a file."""

    @property
    def overrides(self) -> list[str]:
        """The settings as texts, `section.key=value`, the value in TOML."""
        return [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in self.settings]

    @property
    def name(self) -> str:
        """The point's folder and heading: `partition.beta=0.5`, `partition.beta=0.5,method.rank=4`."""
        text = ",".join(self.overrides)
        if len(text) <= NAME_LENGTH:
            return text
        return f"{text[: NAME_LENGTH - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def swept_settings(path: Source) -> set[str]:
    """Name the settings, section.key, that the file sweeps over."""
    tables = [table[SWEEP] for _, table in layers_of(path) if isinstance(table.get(SWEEP), Mapping)]
    return {key for table in tables for key in table if key != ZIP}


def _plain(value: Any) -> bool:
    """Tell whether a value is a number, a word, or a list of such: whether it can be a part of a folder's name."""
    if isinstance(value, list):
        return all(map(_plain, value))
    return isinstance(value, int | float | str) and "/" not in str(value)


def _differ(values: Sequence[Any]) -> bool:
    """Tell whether no two values are equal; 1 and 1.0 are, 1 and true are not."""
    keys = [(isinstance(v, bool), float(v) if isinstance(v, int | float) else json.dumps(v)) for v in values]
    return len(set(keys)) == len(keys)


def _settings(table: Any, source: str) -> dict[str, Any]:
    """Read the [sweep] table as setting -> values, and check it.

    Raises:
        ConfigError: anything but settings with lists of different values, and `zip`; names the source.
    """
    entries: dict[str, Any] = {}
    for key, value in table.items() if isinstance(table, Mapping) else ():
        nested = isinstance(value, Mapping) and key != ZIP  # "partition.beta" without its quotes is a table in a table
        entries |= {f"{key}.{name}": values for name, values in value.items()} if nested else {key: value}
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in entries.items() if key != ZIP}
    lists = all(isinstance(v, list) and v and all(map(_plain, v)) and _differ(v) for v in settings.values())
    if not entries or not lists or not all("." in key for key in settings):
        raise ConfigError(
            f"{source}: [{SWEEP}]: must be settings, each with a list of different numbers, words or lists, for "
            'example "partition.beta" = [0.5, 0.1]'
        )
    if not isinstance(entries.get(ZIP, False), bool):
        told = f"{source}: [{SWEEP}] {ZIP} = {entries[ZIP]!r}"
        raise ConfigError(f"{told}: must be true or false; settings stand beside it")
    return {**settings, **({ZIP: entries[ZIP]} if ZIP in entries else {})}


def _from_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Parse the texts after --sweep to setting -> values.

    Raises:
        ConfigError: a text is written otherwise, or two name one setting.
    """
    table: dict[str, Any] = {}
    for text in texts:
        key, _, values = (part.strip() for part in text.partition("="))
        parts = split_list(values)
        if not (key == ZIP or all(key.partition("."))) or not all(parts):
            raise ConfigError(
                f"--sweep {text}: write it as section.key=value,value, for example --sweep partition.beta=0.5,0.1, or "
                f"as {ZIP}=true"
            )
        if key in table:
            raise ConfigError(f"--sweep {text}: {key} is swept over twice; write all its values after one --sweep")
        table[key] = toml_or_text(values) if key == ZIP else [toml_or_text(part) for part in parts]
    return table


def _merged(path: Source, sweep: Sweep) -> tuple[dict[str, Any], dict[str, str]]:
    """Join the file's [sweep] and `sweep`: setting -> values, and -> where they come from; `zip` among the settings.

    Raises:
        ConfigError: as `grid`.
    """
    tables = [(source, table[SWEEP]) for source, table in layers_of(path) if SWEEP in table][-1:]
    more = sweep if isinstance(sweep, Mapping) else _from_texts(sweep)
    tables += [("sweep" if isinstance(sweep, Mapping) else "--sweep", more)] if more else []
    origin: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for source, table in tables:
        entries = _settings(table, source)
        settings |= entries
        origin |= dict.fromkeys(entries, source)
    return settings, origin


def grid(
    path: Source, overrides: Overrides = (), sweep: Sweep = (), places: Mapping[str, str] | None = None
) -> list[Point]:
    """List the points that a comparison sweeps over; without a sweep one point without settings.

    The points are all combinations, the last setting's values changing fastest; with `zip = true` the first values of
    all settings, then the second ones. Of the file and its bases the last [sweep] counts; in it, `sweep` replaces the
    values of settings that both name, and adds the others.

    Raises:
        ConfigError: anything but settings with lists of different values; lists of unequal length to be zipped; a
            setting that `overrides` set as well, or the seed.
    """
    settings, origin = _merged(path, sweep)
    together_with, overridden = together(overrides)
    zipped = settings.pop(ZIP, False)
    if origin and not settings:
        raise ConfigError(f"{origin[ZIP]}: [{SWEEP}] {ZIP}: nothing is swept over; name settings with their values")
    for key in settings:
        section, _, name = key.partition(".")
        if name in overridden.get(section, {}):
            where = (places or {}).get(key, together_with)
            raise ConfigError(f"{where} {key}: {origin[key]} sweeps over it; leave it out, or change [{SWEEP}]")
        if key == "run.seed":
            raise ConfigError(f"{origin[key]}: [{SWEEP}] {key}: leave it out; --seeds names the seeds of every row")
    if zipped and len({len(values) for values in settings.values()}) > 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in settings.items())
        raise ConfigError(f"{origin[ZIP]}: [{SWEEP}] {ZIP} = true: lists must have the same length; {lengths}")
    combinations = zip(*settings.values(), strict=True) if zipped and settings else product(*settings.values())
    return [Point(tuple(zip(settings, values, strict=True)), origin) for values in combinations]
