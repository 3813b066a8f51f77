"""Find methods in modules that Python can import, and those that installed packages announce as entry points.

In its pyproject.toml: [project.entry-points."fcil.methods"], then mine = "package.module:Class".
"""

import sys
import traceback
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from fcil.errors import ConfigError
from fcil.method import Method
from fcil.registry.files import fault, method_in

__all__ = ["GROUP", "entry_point_class", "entry_points_of", "installed_names", "module_class", "package_of"]

GROUP = "fcil.methods"


@cache
def _scan(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read the metadata of every installed package, which takes a while: once for each `sys.path`."""
    return tuple(entry_points(group=GROUP))


def entry_points_of(name: str) -> list[EntryPoint]:
    """List the entry points of a name; several packages may announce one."""
    return [point for point in _scan(tuple(sys.path)) if point.name == name]


def installed_names() -> list[str]:
    """List the names of all entry points, sorted; they need not load."""
    return sorted({point.name for point in _scan(tuple(sys.path))})


def package_of(point: EntryPoint) -> str:
    """Name the installed package that announces a method."""
    return f"package {point.dist.name!r}" if point.dist else "an installed package"


def entry_point_class(name: str, where: str) -> type[Method]:
    """Load the class that an entry point names.

    Raises:
        ConfigError: several packages announce the name, or it cannot be loaded, or is no method.
    """
    points = entry_points_of(name)
    if len({point.value for point in points}) > 1:
        owners = ", ".join(f"{package_of(point)} ({point.value})" for point in points)
        raise ConfigError(f"{where}: several packages announce {name!r}: {owners}. Write package.module:Class")
    (point,) = points[:1]
    return module_class(point.value, f"{where}: entry point {name!r} of {package_of(point)}, {point.value}")


def module_class(name: str, where: str) -> type[Method]:
    """Load the class at `package.module:Class`.

    Raises:
        ConfigError: no such module or class, it raises when it is imported, or it is no method.
    """
    dotted, _, attribute = name.partition(":")
    try:
        module = import_module(dotted)
    except (Exception, SystemExit) as error:  # whatever a module may raise
        raise ConfigError(f"{where}: {_reason(dotted, error)}") from error
    return method_in(module, attribute.strip(), dotted, where)


def _reason(dotted: str, error: BaseException) -> str:
    """Say why a module cannot be imported: it is not there, or it fails, in a file and a line."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (dotted == missing or dotted.startswith(f"{missing}.")):
        return (
            f"no module {missing!r} here; install its package (pip install), or add the folder that holds it to "
            "PYTHONPATH, or name its file, path/to/file.py:Class"
        )
    frames = [f.filename for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    frames = [name for name in frames if Path(name).parent.name != "importlib" and name != __file__]
    last = error.filename if isinstance(error, SyntaxError) and error.filename else (frames or [dotted])[-1]
    return fault(error, Path(last))
