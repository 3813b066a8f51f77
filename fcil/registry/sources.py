"""Which files outside fcil a method's numbers depend on: those that define its class, its parts and their bases."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fcil.method import Method
from fcil.registry.files import SHA256
from fcil.registry.references import app_folders
from fcil.registry.shipped import FCIL, package

__all__ = ["Source", "sources"]


@dataclass(frozen=True)
class Source:
    """A file that defines a method, or a base of one."""

    name: str
    """The path by which the method is named; else the name of the module."""
    path: Path
    sha256: str
    """SHA-256 of the file as it was imported."""
    inside: str = ""
    """The path from the folder of the app; empty where the file lies elsewhere."""


def _methods(method: Method) -> Iterator[Method]:
    """Yield the method and those that it is made of."""
    yield method
    for part in vars(method).values():
        if isinstance(part, Method):
            yield from _methods(part)


def _source(module: ModuleType | None) -> Source | None:
    """Describe a module's file; None for fcil's, Python's, and the script that runs, which is more than a method."""
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__.partition(".")[0] in {*sys.stdlib_module_names, "__main__"}:
        return None
    path = Path(file)
    ours = [FCIL.resolve(), *(Path(folder).resolve() for folder in package().__path__)]
    if any(path.resolve().is_relative_to(folder) for folder in ours):
        return None
    by_path: str | None = getattr(module, SHA256, None)
    inside = next((str(path.relative_to(folder)) for folder in app_folders() if path.is_relative_to(folder)), "")
    sha256 = by_path or hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(str(path) if by_path else module.__name__, path, sha256, inside)


def sources(method: Method) -> list[Source]:
    """List the files outside fcil that define a method, sorted by name; a shipped one has none."""
    classes = {kind for part in _methods(method) for kind in type(part).__mro__}
    files = [_source(sys.modules.get(kind.__module__)) for kind in classes]
    return sorted({s.name: s for s in files if s}.values(), key=lambda s: s.name)
