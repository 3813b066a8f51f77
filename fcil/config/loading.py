"""Load the checked `Config` of a single run, or of one row of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fcil.config.layers import Overrides, Source, layers_of, together, without_asides
from fcil.config.rows import row_call, row_facts, row_has_method, row_settings, rows_have_bases, variant_names
from fcil.config.sections import Config
from fcil.config.sweep import grid
from fcil.config.tables import from_table
from fcil.errors import ConfigError

__all__ = ["load_all", "load_config", "load_variant"]


def load_config(path: Source, overrides: Overrides = (), places: Mapping[str, str] | None = None) -> Config:
    """Read a file, its bases and the overrides into a checked `Config`.

    Args:
        path: the file, or a table of sections.
        overrides: what wins over it.
        places: of overrides that came from elsewhere than --set, section.key -> where from, for messages.

    Raises:
        ConfigError: as `from_table`; or the file is a table of several runs, each with a base of its own.
    """
    if rows_have_bases(path):
        raise ConfigError(
            f"{path}: is a table of runs, each with a base of its own, and no single run. `fcil compare {path}` "
            "carries them out, `fcil plan` says what they will take; one of them alone is the file that its row names"
        )
    return from_table([*without_asides(layers_of(path)), together(overrides)], places)


def load_all(path: Path, overrides: Sequence[str] = ()) -> list[Config]:
    """The settings of every run that a file describes, one for each row and each point of its sweep, without seeds.

    Raises:
        ConfigError: as `load_config` and `load_variant`.
    """
    rows = variant_names(path)
    if not rows:
        return [load_config(path, [*overrides, *point.overrides], point.places) for point in grid(path, overrides)]
    return [
        load_variant(path, row, overrides, point.overrides, places=point.places)
        for point in grid(path, overrides)
        for row in rows
    ]


def load_variant(path: Source, label: str, *overrides: Overrides, places: Mapping[str, str] | None = None) -> Config:
    """The settings of one row of a comparison.

    The base that the row names, the file's own settings, then those of its [compare.<label>], then the overrides. A
    label is the name of a method unless the base or [compare.<label>.method] names one. Settings of the method in its
    brackets, `label(key = value)`, come after those of [compare.<label>].
    """
    name, settings = row_call(path, label)
    layers, base = layers_of(path), row_facts(path, name).base
    row = row_settings(layers, name)
    if not row_has_method(path, name):
        row.insert(0, (f"label {label!r}", {"method": {"name": name}}))
    if settings:
        row.append((f"label {label!r}", {"method": settings}))
    below = layers_of(Path(base)) if base else []
    return from_table([*without_asides([*below, *layers]), *row, together(*overrides)], places)
