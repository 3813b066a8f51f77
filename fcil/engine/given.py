"""Reads what a script or notebook gives: NumPy's numbers as Python's, overrides by section, methods and seeds."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from inspect import signature
from typing import Any

import numpy as np

from fcil.config import Config
from fcil.engine.own_method import choice_of
from fcil.errors import ConfigError
from fcil.loggers import Logger
from fcil.method import Method
from fcil.options import keys_of, nearest, split_list

__all__ = [
    "SEEDS", "Section", "changes_of", "class_given", "is_method_class", "jobs_of", "loggers_of", "mapping_of",
    "method_names_of", "plain", "seeds_of",
]  # fmt: skip

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


def mapping_of(argument: str, value: object, example: str) -> Mapping[str, Any]:
    """Return what is given as a dict, empty for None.

    Raises:
        ConfigError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{argument} = {value!r}: must be a dict, for example {example}")
    return value


def jobs_of(jobs: object, on: object) -> int | None:
    """Return the number of jobs as Python's own number, if there is one.

    Raises:
        ConfigError: there is no such number of jobs, or no such place for them.
    """
    number = plain(jobs)
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
        raise ConfigError(f"jobs = {jobs!r}: must be a whole number, at least 0")
    if on not in ("here", "ray"):
        raise ConfigError(f'on = {on!r}: must be "here" or "ray"')
    return number


def loggers_of(loggers: object) -> list[Any]:
    """List the loggers, of which one may be given alone; what they are is checked where they are used.

    Raises:
        ConfigError: it is neither a logger nor a list.
    """
    if isinstance(loggers, Logger):
        return [loggers]
    if not isinstance(loggers, Iterable) or isinstance(loggers, str):
        raise ConfigError(f"loggers = {loggers!r}: must be a list of loggers, for example [MyLogger()]")
    return list(loggers)


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
    given = mapping_of("overrides", overrides, '{"train.lr": 1e-3}')
    for name, value in [*given.items(), *sections.items()]:
        section, dot, key = name.partition(".")
        if not dot and not isinstance(value, Mapping):
            raise _no_section(name, value, called)
        table.setdefault(section, {}).update({key: plain(value)} if dot else plain(value))
    return table


def method_names_of(
    methods: object, rows: Collection[str] = (), others: Callable[[], Collection[str]] = lambda: ()
) -> list[str]:
    """List methods as a comparison names them: given in one text with commas, or in a list of names and objects.

    Args:
        rows: labels that the configuration describes.
        others: gives the settings of a method that the configuration, overrides or a sweep set.

    Raises:
        ConfigError: one is a class, an object whose class no other process can find, or one of a row's name.
    """
    if isinstance(methods, str):
        return split_list(methods)
    listed = methods if isinstance(methods, Iterable) and not isinstance(methods, Method) else [methods]
    return [one if isinstance(one, str) else _label(one, rows, others) for one in listed]


def _label(method: object, rows: Collection[str], others: Callable[[], Collection[str]]) -> str:
    """Name a method that is given as an object: `lorm(rank = 4)` for LoRM(rank=4)."""
    if is_method_class(method):
        raise class_given("methods", method)
    if not isinstance(method, Method):
        raise ConfigError(f"methods: {method!r}: must be a name, 'lorm(rank = 4)', or a method, LoRM(rank=4)")
    choice, unnamed = choice_of(method, others())
    if unnamed is not None:
        kind = type(method).__name__
        raise ConfigError(
            f"methods: {method!r}: every run of a comparison has to find its method again, and the class is in no file "
            f"that can be imported. Put it into one and name that, 'my_method.py' or 'my_method.py:{kind}', with "
            "settings 'my_method.py(rank = 4)'; such objects are for fcil.run(method=...)"
        )
    if choice.name in rows:
        raise ConfigError(
            f"methods: {method!r}: the configuration has a row [compare.{choice.name}], whose settings would join the "
            f"object's; name the row, {choice.name!r}, or give the row another label"
        )
    inside = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in choice.settings.items())
    return f"{choice.name}({inside})" if inside else choice.name


def class_given(argument: str, kind: object) -> ConfigError:
    """The error for a method's class in place of an object of it."""
    return ConfigError(
        f"{argument} = {kind!r}: is a class; give an object with its settings, for example its default "
        f"ones: {getattr(kind, '__name__', 'Method')}()"
    )


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
