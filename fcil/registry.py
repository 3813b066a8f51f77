"""Finds a method by name: the only place that knows where methods live.

A method called `x` is the one subclass of `Method` that `strategies/x.py` defines, and the hybrid of two methods `x+y`
that of `strategies/x_y.py`. In a checkout that is the folder `strategies/` beside `fcil/`; in a wheel it is
`fcil.strategies`. Names travel, classes never do.
"""

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import nearest, parse

__all__ = ["build_method", "method_class", "method_names", "parse_call"]

_CALL = re.compile(r"\s*([\w+]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def _package() -> ModuleType:
    """The package of methods; refuses a foreign `strategies` (there is one on PyPI)."""
    if find_spec("fcil.strategies") is not None:
        return import_module("fcil.strategies")
    package = import_module("strategies") if find_spec("strategies") else None
    where = Path(package.__path__[0]).resolve().parent if package else None
    if package is None or not hasattr(package, "FCIL") or where is None:
        found = f"; another package of that name is in {where}" if where else ""
        raise ConfigError(
            f"the folder strategies/ was not found beside {Path(__file__).parent}{found}. "
            "Run from the checkout, or install fcil again (pip install -e .)"
        )
    return package


def _modules() -> dict[str, str]:
    """Method -> the module that defines it."""
    modules = {m.name for m in iter_modules(_package().__path__) if not m.name.startswith("_")}
    return {m.replace("_", "+") if "_" in m and modules.issuperset(m.split("_")) else m: m for m in modules}


def method_names() -> list[str]:
    """All methods, sorted."""
    return sorted(_modules())


def method_class(name: str, where: str = "") -> type[Method]:
    """The class of a method; its fields are its settings.

    Args:
        where: how to point at the name in a message; as the setting `method.name` unless given.

    Raises:
        ConfigError: no such method; names the nearest. Or its file is no method's.
    """
    modules = _modules()
    if name not in modules:
        raise ConfigError(f"{where or f'method.name = {name!r}'}: no such method. {nearest(name, modules)}")
    try:
        module = import_module(f"{_package().__name__}.{modules[name]}")
    except Exception as error:  # a draft may raise anything
        file = f"strategies/{modules[name]}.py"
        raise ConfigError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    found = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Method) and c.__module__ == module.__name__
    ]
    if len(found) != 1:
        told = f"it defines {len(found)}: {', '.join(c.__name__ for c in found)}" if found else "it defines none"
        raise ConfigError(
            f"strategies/{modules[name]}.py: must define exactly one subclass of fcil.method.Method; {told}"
        )
    return found[0]


def build_method(name: str, settings: Mapping[str, Any], where: Callable[[str], str] | None = None) -> Method:
    """A method from its name and settings.

    Raises:
        ConfigError: no such method, or a setting that it does not know or does not admit.
    """
    return parse(method_class(name), settings, where or (lambda key: f"method.{key} ({name})"))


def parse_call(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """`name` or `name(key = value, ...)`, the values in TOML -> a method's name and its settings, not yet checked.

    Args:
        where: how to point at the text in a message.

    Raises:
        ConfigError: it is written otherwise.
    """
    call = _CALL.fullmatch(text)
    try:
        settings = tomllib.loads(f"own = {{{call[2] or ''}}}")["own"] if call else None
    except tomllib.TOMLDecodeError:
        settings = None
    if call is None or settings is None:
        raise ConfigError(f'{where}: write a method, "ties", or a method with its settings, "ties(top = 0.3)"')
    return call[1], settings
