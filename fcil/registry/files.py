"""Load a method's file as a module of its own, and find the methods that a module defines.

The module's name holds a hash of path and content: two files of one name never meet, a file that is imported twice
gives one class, and one that has changed meanwhile another. It counts as a part of the package of shipped methods, so
that a file works alike inside `strategies/` and elsewhere: `from .fedavg import FedAvg` reaches the shipped one.
"""

import hashlib
import inspect
import re
import sys
import traceback
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from fcil.errors import ConfigError
from fcil.method import Method
from fcil.options import nearest
from fcil.registry.misnamed import check_names

__all__ = ["SHA256", "fault", "load_file", "method_in", "methods_of"]

SHA256 = "__fcil_sha256__"
"""Attribute of a module that was loaded here: the hash of what was executed, whatever the file holds later."""


def load_file(path: Path, package: ModuleType, where: str) -> ModuleType:
    """Load a file as a module, executed once.

    Args:
        path: the file's absolute path.
        package: the package of the shipped methods.
        where: how to point at the name in a message.

    Raises:
        ConfigError: the file cannot be read, or raises when it is imported; names the line.
    """
    if path.parent.resolve() in [Path(folder).resolve() for folder in package.__path__]:
        return import_module(f"{package.__name__}.{path.stem}")  # shipped: its class must not exist twice
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(source).hexdigest()
    unique = hashlib.sha256(f"{path}|{digest}".encode()).hexdigest()[:12]
    name = f"{package.__name__}.{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}_{unique}"
    if name not in sys.modules:
        _execute(name, path, source, digest, where)
    return sys.modules[name]


def _execute(name: str, path: Path, source: bytes, digest: str, where: str) -> None:
    """Execute a source as it was read and hashed: no file is read again, and no older bytecode is taken for it."""
    module = ModuleType(name)
    module.__file__, module.__package__ = str(path), name.rpartition(".")[0]
    module.__spec__ = ModuleSpec(name, None, origin=str(path))
    setattr(module, SHA256, digest)
    sys.modules[name] = module  # dataclasses look up the names of their annotations there
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:  # a draft may raise anything
        del sys.modules[name]
        raise ConfigError(f"{where}: {fault(error, path)}{_advice(error, path)}") from error


def fault(error: BaseException, path: Path) -> str:
    """Say where in a file the importing failed, and how: `file.py, line 3: cannot be imported: NameError: ...`."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else (lines or [None])[-1]
    text = error.msg if isinstance(error, SyntaxError) else error
    return f"{path}{f', line {line}' if line else ''}: cannot be imported: {type(error).__name__}: {text}"


def _advice(error: BaseException, path: Path) -> str:
    """Advise what to do about a file that lies beside the method's and was not found."""
    missing = (error.name or "").rpartition(".")[2] if isinstance(error, ModuleNotFoundError) else ""
    if not missing or not (path.parent / f"{missing}.py").exists():
        return ""
    return (
        f". {missing}.py lies beside it, but a method named by its path is one file: put both into a package, install "
        "it or add its folder to PYTHONPATH, and name the method package.module:Class"
    )


def methods_of(module: ModuleType) -> list[type[Method]]:
    """List the methods that a module itself defines, in their order."""
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Method)]
    return [c for c in dict.fromkeys(classes) if c.__module__ == module.__name__]


def method_in(module: ModuleType, name: str, shown: str, where: str) -> type[Method]:
    """Find the method of a name in a module, or without a name the only one that it defines.

    Args:
        shown: the file or module, as messages name it.

    Raises:
        ConfigError: no such class (names the nearest), it is no method, or it is not clear which is meant; or the class
            has a function that looks like a misspelt one of the contract.
    """
    names = [c.__name__ for c in methods_of(module)]
    if not name:
        if len(names) != 1:
            which = f"{len(names)}: {', '.join(names)}; say which, {shown}:{names[0]}" if names else "none"
            raise ConfigError(f"{where}: {shown} must define one subclass of fcil.method.Method; it defines {which}")
        name = names[0]
    if name not in vars(module):
        raise ConfigError(f"{where}: {shown} has no class {name!r}. {nearest(name, names)}")
    kind = vars(module)[name]
    if not inspect.isclass(kind) or not issubclass(kind, Method):
        raise ConfigError(f"{where}: {name} in {shown} is no subclass of fcil.method.Method. {nearest(name, names)}")
    check_names(kind, where)
    return kind
