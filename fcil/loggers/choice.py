"""Find the loggers that `run.log` names: those of fcil, each with the package that it takes, and users' own files."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from fcil.errors import ConfigError
from fcil.loggers.base import Logger
from fcil.options import nearest
from fcil.registry.files import load_file
from fcil.registry.misnamed import check_names
from fcil.registry.references import locate, split_file

__all__ = ["BUILT_IN", "BuiltIn", "build_loggers", "check_loggers", "logger_class"]


@dataclass(frozen=True)
class BuiltIn:
    """A logger of fcil: where its class is, and which package it takes; none if empty."""

    module: str
    kind: str
    package: str = ""


BUILT_IN = {
    "csv": BuiltIn("csv_file", "CsvFile"),
    "mlflow": BuiltIn("to_mlflow", "ToMlflow", "mlflow"),
    "tensorboard": BuiltIn("to_tensorboard", "ToTensorBoard", "tensorboard"),
    "trackio": BuiltIn("to_trackio", "ToTrackio", "trackio"),
    "wandb": BuiltIn("to_wandb", "ToWandb", "wandb"),
}
"""Name -> logger. The extra of fcil that brings its package has the same name."""


def logger_class(name: str) -> type[Logger]:
    """Find the class of a logger; no package of a service is imported.

    Args:
        name: one of `BUILT_IN`, or a file, `path/to/file.py` or `path/to/file.py:Class`.

    Raises:
        ConfigError: no such logger or file, the file cannot be imported, or the logger's package is not installed.
    """
    where = f'run.log: "{name}"'
    if file := split_file(name):
        return _file_class(*file, where)
    if name not in BUILT_IN:
        raise ConfigError(
            f"{where}: no such logger. {nearest(name, BUILT_IN)} One of your own is a file, path/to/file.py"
        )
    built_in = BUILT_IN[name]
    if built_in.package and find_spec(built_in.package) is None:
        raise ConfigError(
            f'{where}: the package {built_in.package} is missing; install it with `pip install "fcil[{name}]"` or '
            f"`pip install {built_in.package}`"
        )
    kind: type[Logger] = getattr(import_module(f"fcil.loggers.{built_in.module}"), built_in.kind)
    return kind


def _file_class(path: str, name: str, where: str) -> type[Logger]:
    """Load a logger's class from a file: the one of that name, or the only one that the file defines."""
    file = locate(path)
    if file is None:
        raise ConfigError(f"{where}: no such file: {path}")
    module = load_file(file, import_module("fcil.loggers"), where)
    kinds = [k for k in vars(module).values() if inspect.isclass(k) and issubclass(k, Logger)]
    loggers = {k.__name__: k for k in kinds if k.__module__ == module.__name__}
    if name in loggers or (not name and len(loggers) == 1):
        kind = loggers[name] if name else next(iter(loggers.values()))
        check_names(kind, where)
        return kind
    if name:
        raise ConfigError(f"{where}: {file} has no logger {name!r}. {nearest(name, loggers)}")
    which = f"{len(loggers)}: {', '.join(loggers)}; say which, {path}:{next(iter(loggers))}" if loggers else "none"
    raise ConfigError(f"{where}: {file} must define one subclass of fcil.loggers.Logger; it defines {which}")


def check_loggers(names: Sequence[str]) -> None:
    """Check that every logger of `run.log` is there and can work.

    Raises:
        ConfigError: one cannot, as `logger_class` says; or one is named twice.
    """
    for name in names:
        try:
            logger_class(name)
        except ConfigError as error:
            raise ConfigError(
                f"{error}. Or leave it out of run.log; a run that was begun with it goes on without it by "
                "`fcil run CONFIG --output FOLDER`"
            ) from None
        if list(names).count(name) > 1:
            raise ConfigError(f'run.log: names "{name}" twice')


def build_loggers(names: Sequence[str]) -> dict[str, Logger]:
    """Make the loggers that `run.log` names, by name.

    Raises:
        ConfigError: as `check_loggers`; or the class of a file takes arguments.
    """
    check_loggers(names)
    loggers = {}
    for name in names:
        kind = logger_class(name)
        try:
            loggers[name] = kind()
        except Exception as error:  # whatever a user's class may raise
            raise ConfigError(
                f'run.log: "{name}": {kind.__name__}() failed: {type(error).__name__}: {error}'
            ) from error
    return loggers
