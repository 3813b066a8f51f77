"""Turn a name into the class of a method, and a name with settings into a method."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import keys_of, nearest, parse, typed
from fcil.registry.files import load_file, method_in
from fcil.registry.installed import entry_point_class, entry_points_of, installed_names, module_class, package_of
from fcil.registry.references import app_folders, locate, split_file
from fcil.registry.shipped import method_names, package, shipped_class
from fcil.words import counted

__all__ = ["build_method", "method_class"]


def method_class(name: str, where: str = "") -> type[Method]:
    """Find the class of a method; its fields are its settings.

    Args:
        name: a shipped method's name, `path/to/file.py:Class`, `package.module:Class`, or an entry point's name.
        where: how to point at the name in a message; as the setting `method.name` unless given.

    Raises:
        ConfigError: no such method, file, module or class, with the nearest name; or it cannot be imported.
    """
    where = where or f"method.name = {name!r}"
    file = split_file(name)
    if file:
        return _file_class(*file, where)
    if ":" in name:
        return module_class(name.strip(), where)
    shipped = method_names()
    if name in shipped:
        _refuse_collision(name, where)
        return shipped_class(name)
    if name in installed_names():
        return entry_point_class(name, where)
    written = " A file is written path/to/file.py:Class." if "/" in name else ""
    raise ConfigError(f"{where}: no such method.{written} {nearest(name, [*shipped, *installed_names()])}")


def _file_class(path: str, name: str, where: str) -> type[Method]:
    file = locate(path)
    if file is None:
        folders = dict.fromkeys([Path.cwd(), *app_folders()])
        beside = "" if Path(path).is_absolute() else f" in {', nor in '.join(map(str, folders))}"
        there = {path_of_file.stem: str(path_of_file) for path_of_file in Path(path).parent.glob("*.py")}
        alike = difflib.get_close_matches(Path(path).stem, there, 1)
        meant = f". Did you mean {there[alike[0]]!r}?" if alike else ""
        raise ConfigError(f"{where}: no such file: {path}{beside}{meant}")
    return method_in(load_file(file, package(), where), name, str(file), where)


def _refuse_collision(name: str, where: str) -> None:
    """Refuse a name that means two methods; both can still be had by their modules."""
    if points := entry_points_of(name):
        kind = shipped_class(name)
        shipped = f"fcil.strategies.{kind.__module__.rpartition('.')[2]}:{kind.__name__}"
        raise ConfigError(
            f"{where}: {package_of(points[0])} announces an entry point of that name, which is a shipped method's, and "
            f"is refused: rename it there. Until then write {points[0].value} or {shipped}"
        )


def build_method(name: str, settings: Mapping[str, Any], where: Callable[[str], str] | None = None) -> Method:
    """Build a method from its name and settings.

    Raises:
        ConfigError: no such method, or a setting that it does not know or does not admit.
    """
    kind, where = method_class(name), where or (lambda key: f"method.{key} ({name})")
    for key in kind.refused.keys() & settings.keys():
        raise ConfigError(f"{where(key)} = {settings[key]!r}: {kind.refused[key]}")
    _check_known(kind, name, settings, where)
    return parse(kind, settings, where)


def _check_known(kind: type[Method], name: str, settings: Mapping[str, Any], where: Callable[[str], str]) -> None:
    """Refuse a setting that this method lacks and others have: it need not be a misspelt one."""
    keys = {*keys_of(kind), *(option.former for _, _, option in typed(kind).values())}
    for key in settings:
        if key not in keys and (others := [n for n in method_names() if key in keys_of(shipped_class(n))]):
            several = f"{counted(len(others), 'other method')} {'has' if len(others) == 1 else 'have'}"
            raise ConfigError(
                f"{where(key)}: unknown setting. {nearest(key, keys_of(kind))} {several} one of this name, {name} has "
                f'none; a comparison gives it to single rows, "METHOD({key} = ...)" or [compare.LABEL.method]'
            )
