"""Read what a file says of the rows of a comparison, under [compare]."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from fcil.config.layers import COMPARE, Layer, Source, layers_of
from fcil.config.sections import SECTIONS
from fcil.errors import ConfigError
from fcil.options import Option, nearest, parse, parse_call

__all__ = [
    "RowFacts",
    "canonical",
    "labels_of",
    "row_call",
    "row_facts",
    "row_has_method",
    "row_settings",
    "rows_have_bases",
    "variant_names",
]


@dataclass(frozen=True, kw_only=True)
class RowFacts:
    """`[compare.<label>]`: what a row of a comparison says beside settings of its run."""

    base: Annotated[
        str, Option("file with the row's settings, relative to the file that names it; what that one says itself wins")
    ] = ""
    published: Annotated[
        float | None, Option("final accuracy that somebody else has published", "%", low=0, high=100)
    ] = None
    tolerance: Annotated[
        float | None, Option("difference from it that an independent run may show", "points", above=0)
    ] = None
    tuned: Annotated[
        str, Option("how the row's settings were chosen, as `fcil tune` writes it; shown below the table")
    ] = ""


_FACTS = tuple(f.name for f in fields(RowFacts))


def variant_names(path: Source) -> list[str]:
    """The variants that a file describes under [compare.<label>], in their order; its base's if it has none itself."""
    return next((list(table[COMPARE]) for _, table in reversed(layers_of(path)) if table.get(COMPARE)), [])


def labels_of(path: Source) -> set[str]:
    """The labels of all rows that a file and its bases describe under [compare.<label>]."""
    tables = [table.get(COMPARE, {}) for _, table in layers_of(path)]
    return {label for table in tables if isinstance(table, Mapping) for label in table}


def row_call(path: Source, label: str) -> tuple[str, dict[str, Any]]:
    """Split `name(key = value, ...)` into the row of the file or the method that it names, and the method's settings.

    A label of the file is a name as it stands, brackets and all.

    Raises:
        ConfigError: it is written otherwise, or the settings hold another method's name.
    """
    if "(" not in label or label in labels_of(path):
        return label, {}
    where = f"--methods {label}"
    name, settings = parse_call(label, where, 'a method or a row, "lorm", or one with settings, "lorm(rank = 4)"')
    if "name" in settings:
        raise ConfigError(f"{where}: leave `name` out; the method's name stands before the bracket")
    return name, settings


def canonical(path: Source, label: str) -> str:
    """Write a label with settings in one way, without blanks: `lorm( rank = 4 )` is `lorm(rank=4)`; others stay.

    Raises:
        ConfigError: as `row_call`.
    """
    name, settings = row_call(path, label)
    if name == label:
        return label
    inside = ",".join(f"{key}={json.dumps(v, separators=(',', ':'), default=str)}" for key, v in settings.items())
    text = f"{name}({inside})" if settings else name
    return text if row_call(path, text) == (name, settings) else label  # JSON of a table is no TOML


def _rows(layers: Sequence[Layer], label: str) -> list[Layer]:
    """Read what the file and its bases say under [compare.<label>], base first, each with the file's name.

    Raises:
        ConfigError: it is no section.
    """
    rows = [(source, table.get(COMPARE, {}).get(label, {})) for source, table in layers]
    for source, entries in rows:
        if not isinstance(entries, Mapping):
            raise ConfigError(
                f"{source}: {COMPARE}.{label} = {entries!r}: must be a section, [{COMPARE}.{label}.train]"
            )
    return rows


def row_facts(path: Source, label: str) -> RowFacts:
    """Read what a row of a comparison says beside settings; its `base` as a path from the current folder.

    Raises:
        ConfigError: a value that does not fit; names the file and the key.
    """
    facts: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, entries in _rows(layers_of(path), label):
        for key in entries.keys() & set(_FACTS):
            base = key == "base" and isinstance(path, Path) and isinstance(entries[key], str)
            facts[key], origin[key] = str(Path(source).parent / entries[key]) if base else entries[key], source
    return parse(RowFacts, facts, lambda key: f"{origin[key]}: [{COMPARE}.{label}] {key}")


def row_settings(layers: Sequence[Layer], label: str) -> list[Layer]:
    """Take from layers what [compare.<label>] sets of the row's run, base first: all of it but the `RowFacts`.

    Raises:
        ConfigError: it is no section.
    """
    return [
        (f"{source}: [{COMPARE}.{label}]", {k: v for k, v in entries.items() if k not in _FACTS})
        for source, entries in _rows(layers, label)
    ]


def row_has_method(path: Source, label: str) -> bool:
    """Tell whether [compare.<label>] names a method, itself or by its base; if not, the label is the method's name.

    Raises:
        ConfigError: a key that a row does not have, which may be `base` or `method` misspelt.
    """
    tables = row_settings(layers_of(path), label)
    for source, table in tables:
        for key in table.keys() - {"method", *SECTIONS}:
            raise ConfigError(f"{source} {key}: unknown key. {nearest(key, ['method', *SECTIONS, *_FACTS])}")
    return any("name" in table.get("method", {}) for _, table in tables) or bool(row_facts(path, label).base)


def rows_have_bases(path: Source) -> bool:
    """Tell whether a file is a table of whole runs: whether any of its rows names a base."""
    return any(row_facts(path, label).base for label in variant_names(path))
