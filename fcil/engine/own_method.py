"""A method that is given as an object, from a notebook or a script: what the records call it and keep of it.

A class that the registry can find goes by its name there. Any other is called `Class@digest` after its code, so that a
run is not taken for one of another version of the class: a notebook's cell is soon changed and executed again.
"""

import hashlib
import sys
from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields
from types import CodeType, FunctionType
from typing import Any

from fcil.config import MethodChoice
from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import keys_of, parse
from fcil.registry import method_class, method_names
from fcil.registry.files import SHA256
from fcil.registry.misnamed import check_names

__all__ = ["choice_of", "code_digest"]

OURS = ("fcil", "strategies", "builtins")
"""Packages whose code is known by fcil's own version."""
GENERATED = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__"}
"""What `dataclass` writes from the fields, whose values are recorded anyway."""


def _of_code(code: CodeType, doc: str | None) -> Iterator[str]:
    """Yield what a function does: its bytecode, names and constants, without its place in the file and docstring."""
    yield from (code.co_code.hex(), repr(code.co_names), repr(code.co_varnames))
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _of_code(value, None)
        elif value != doc:
            yield repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _functions(value: object) -> Iterator[FunctionType]:
    """Yield the functions behind an attribute of a class: a method of any kind, or a property."""
    wrapped = [getattr(value, name, None) for name in ("fget", "func", "__func__")]
    yield from (f for f in (value, *wrapped) if isinstance(f, FunctionType))


def code_digest(kind: type) -> str:
    """Hash the code of a class and of those of its bases that are neither fcil's nor Python's, by SHA-256."""
    sha = hashlib.sha256()
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in OURS:
            continue
        for name, value in sorted(vars(base).items()):
            parts = [part for f in _functions(value) for part in _of_code(f.__code__, f.__doc__)]
            plain = isinstance(value, bool | int | float | str | tuple) and not name.startswith("__")
            parts += [repr(value)] if plain else []
            if parts and name not in GENERATED:
                sha.update("\x1f".join([name, *parts, ""]).encode())
    return sha.hexdigest()


def _reference(kind: type[Method]) -> str | None:
    """Find the name by which any process finds a class: shipped, or by its file or module; None where there is none.

    A class of `__main__`, of a notebook's cell or inside a function is in nobody else's reach.
    """
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or module is None or getattr(module, kind.__name__, None) is not kind:
        return None
    home = module.__file__ if hasattr(module, SHA256) else kind.__module__
    candidates = [*method_names(), f"{home}:{kind.__name__}"]
    for name in candidates:
        try:
            if method_class(name) is kind:
                return name
        except ConfigError:  # a broken draft, which is no concern of this method
            continue
    return None


def _plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return isinstance(value, bool | int | float | str)


def _settings(method: Method, name: str, others: Collection[str]) -> dict[str, Any]:
    """Collect the settings that are not at their defaults, or that others would give, as a file has them."""
    settings: dict[str, Any] = {}
    keys = {field: key for key, field in keys_of(type(method)).items()}
    for field in (f for f in fields(method) if f.init):
        value = getattr(method, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value == default and keys[field.name] not in others:
            continue
        if not _plain(value):
            raise ConfigError(
                f"method.{keys[field.name]} ({name}) = {value!r}: cannot be kept in config.toml; a setting is a "
                "number, a text, true or false, or a list of these"
            )
        settings[keys[field.name]] = list(value) if isinstance(value, tuple) else value
    return settings


def choice_of(method: Method, others: Collection[str] = ()) -> tuple[MethodChoice, Method | None]:
    """Write [method] for a method; with it the method itself, where its name does not lead to its class.

    Args:
        others: settings that a file or overrides give: they are written even where the method has its default.

    Raises:
        ConfigError: a setting out of its range, or of a type that no settings file can hold.
    """
    kind = type(method)
    reference = _reference(kind)
    name = reference or f"{kind.__name__}@{code_digest(kind)[:8]}"
    check_names(kind, f"method ({name})")
    settings = _settings(method, name, others)
    parse(kind, settings, lambda key: f"method.{key} ({name})")
    return MethodChoice(name, settings), None if reference else method
