"""Reads what a script or notebook gives: NumPy's numbers as Python's, overrides by section, methods and seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from inspect import signature
from typing import Any

import numpy as np

from fcil.config import Config
from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import keys_of, nearest, split_list

__all__ = ["SEEDS", "Section", "changes_of", "is_method_class", "method_names_of", "plain", "seeds_of"]

SEEDS = (0, 1, 2)
"""Seeds of a comparison unless others are named."""
Section = Mapping[str, Any]


def plain(value: Any) -> Any:
    """Replace NumPy's numbers and arrays, and ranges, by what a settings file holds; in lists and dicts too."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return value


def _no_section(name: str, value: object, called: Callable[..., object]) -> ConfigError:
    """The error for a name that is neither a section nor an argument: what may have been meant."""
    settings = {field.name: keys_of(field.type) for field in fields(Config) if isinstance(field.type, type)}
    places = [f"{section}.{key}" for section, keys in settings.items() if section != "method" for key in keys]
    meant = [place for place in places if place.endswith(f".{name}")]
    close = nearest(name, signature(called).parameters)
    hint = f"did you mean {' or '.join(repr(place) for place in meant)}?" if meant else ""
    hint = hint or (close if close.startswith("Did") else 'for example {"partition.beta": 0.1}')
    return ConfigError(
        f'overrides: {name} = {value!r}: write it as "section.key", or as a section, '
        f'{{"partition": {{"beta": 0.1}}}}; {hint[0].lower()}{hint[1:]}'
    )


def changes_of(
    overrides: Mapping[str, Any] | None, sections: Mapping[str, Any], called: Callable[..., object]
) -> dict[str, dict[str, Any]]:
    """Collect overrides by section: those by dotted name, those in a dict of sections, and those by keyword.

    Args:
        called: the function that they were given to, one of whose arguments may have been misspelt.

    Raises:
        ConfigError: a name without a dot whose value is no section.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, value in [*(overrides or {}).items(), *sections.items()]:
        section, dot, key = name.partition(".")
        if not dot and not isinstance(value, Mapping):
            raise _no_section(name, value, called)
        table.setdefault(section, {}).update({key: plain(value)} if dot else plain(value))
    return table


def method_names_of(methods: str | Sequence[object]) -> list[str]:
    """List the methods that are given by name, in a list or in one text with commas.

    Raises:
        ConfigError: one is given as an object or a class.
    """
    names: list[str] = []
    for one in split_list(methods) if isinstance(methods, str) else methods:
        if not isinstance(one, str):
            kind = one if isinstance(one, type) else type(one)
            raise ConfigError(
                f"methods: {one!r}: must be a name, since every run of a comparison has to find its method again. Put "
                f"the class into a file and name that, 'my_method.py' or 'my_method.py:{kind.__name__}', with settings "
                "'my_method.py(rank = 4)'; objects are for fcil.run(method=...)"
            )
        names.append(one)
    return names


def seeds_of(seeds: object) -> list[int]:
    """List the seeds.

    Raises:
        ConfigError: it is no list, is empty, or holds what is no whole number.
    """
    listed: list[int] = plain(list(seeds)) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else []
    if not listed or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in listed):
        raise ConfigError(f"seeds = {seeds!r}: must be a list of whole numbers from 0 on, for example [0, 1, 2]")
    return listed


def is_method_class(method: object) -> bool:
    """Tell whether a method is given as a class, which has no settings yet."""
    return isinstance(method, type) and issubclass(method, Method)
