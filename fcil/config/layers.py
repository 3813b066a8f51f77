"""Read a file, its bases and the overrides as layers: tables, each with the name of where it came from, base first."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError
from fcil.options import toml_or_text

__all__ = [
    "BENCH", "COMPARE", "SWEEP", "Layer", "Overrides", "Source", "layers_of", "load_section", "together",
    "without_asides",
]  # fmt: skip

COMPARE, SWEEP, BENCH = ASIDE = "compare", "sweep", "bench"
"""Sections beside the settings of a run: what `fcil compare` and `fcil merge-bench` do with it."""
Source = Path | Mapping[str, Any]
"""Where settings come from: a TOML file, or a table of sections."""
Overrides = Sequence[str] | Mapping[str, Mapping[str, Any]]
"""What wins over them: texts `section.key=value`, or a table of sections."""
Layer = tuple[str, dict[str, Any]]
"""(the name to show for where it came from, section -> what stands there)."""


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        alike = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.toml")], 1)
        meant = f". Did you mean {path.parent / alike[0]}?" if alike else ""
        raise ConfigError(f"{path}: no such file{meant}") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise ConfigError(f"{path}: not a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None


def layers_of(path: Source, files_above: tuple[Path, ...] = ()) -> list[Layer]:
    """Read a file and its bases, base first, each with the name to show for it; a table is a single layer.

    Raises:
        ConfigError: a file is missing or not TOML, or its `base` is no path or leads back to it (`files_above`).
    """
    if isinstance(path, Mapping):
        return [("settings", dict(path))]
    if path.resolve() in files_above:
        raise ConfigError(f"{path}: `base` leads back to itself")
    table = _read(path)
    base = table.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base = {base!r}: must be the path of another file")
    below = layers_of(path.parent / base, (*files_above, path.resolve())) if base else []
    return [*below, (str(path), table)]


def together(*several: Overrides) -> Layer:
    """Join all overrides into one layer, so that their order does not matter unless they set the same key.

    Raises:
        ConfigError: a text is not of the form `section.key=value`.
    """
    table: dict[str, dict[str, Any]] = {}
    for overrides in several:
        tables = [overrides] if isinstance(overrides, Mapping) else [_override(text)[1] for text in overrides]
        for section, entries in (pair for layer in tables for pair in layer.items()):
            table.setdefault(section, {}).update(entries)
    return "overrides" if any(isinstance(o, Mapping) for o in several) else "--set", table


def _override(text: str) -> Layer:
    """Parse `section.key=value`, the value in TOML, or taken as text where it is not TOML."""
    dotted, equals, value = text.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set {text}: write it as section.key=value, for example --set partition.beta=0.1")
    return "--set", {section: {key: toml_or_text(value)}}


def without_asides(layers: Sequence[Layer]) -> list[Layer]:
    """Leave out the sections that are beside the settings of a run."""
    return [(source, {s: entries for s, entries in table.items() if s not in ASIDE}) for source, table in layers]


def load_section(path: Path, section: str, overrides: Sequence[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """Read a section beside a run's own from a file, its bases and the overrides: (source, entries), base first.

    Raises:
        ConfigError: it is no section.
    """
    layers = [(source, table[section]) for source, table in [*layers_of(path), together(overrides)] if section in table]
    for source, entries in layers:
        if not isinstance(entries, dict):
            raise ConfigError(f"{source}: {section} = {entries!r}: must be a section, [{section}]")
    return layers
