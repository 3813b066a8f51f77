"""Finds rows of a comparison that have the same settings, however they are written: one row twice, not two methods."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from fcil.config import Config, flat_settings
from fcil.config.tables import IDENTITY

__all__ = ["doubled", "doubled_rows", "same_key"]


def same_key(settings: Mapping[str, Any], method: str) -> str:
    """Write the settings that a run's numbers depend on, but its seed, as a text.

    Args:
        settings: all settings of the run with its method's defaults, section.key -> value.
        method: the method's whole name, with the path of its file where it has one.
    """
    run = {f"run.{key}" for key in IDENTITY if key != "seed"}
    identity = {name: value for name, value in settings.items() if not name.startswith("run.") or name in run}
    return json.dumps({**identity, "method.name": method}, sort_keys=True, default=str)


def doubled(keys: Iterable[tuple[str, Hashable]]) -> list[str]:
    """Say which labels have equal keys, a text for each group of them, in their order."""
    groups: dict[Hashable, dict[str, None]] = {}
    for label, key in keys:
        groups.setdefault(key, {})[label] = None
    several = [list(labels) for labels in groups.values() if len(labels) > 1]
    notes = [
        f"{', '.join(labels[:-1])} and {labels[-1]} have the same settings: one row, not several" for labels in several
    ]
    return list(dict.fromkeys(notes))


def doubled_rows(rows: Sequence[tuple[str, str, Config]]) -> list[str]:
    """Say which rows of a comparison have the same settings, a text for each group of them.

    Args:
        rows: (point of the sweep, label, settings) of each run; of several seeds the first will do.
    """
    first: dict[tuple[str, str], Config] = {}
    for point, label, config in rows:
        first.setdefault((point, label), config)
    return doubled(
        (label, (point, same_key(flat_settings(config), config.method.name)))
        for (point, label), config in first.items()
    )
