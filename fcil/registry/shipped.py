"""The methods of `strategies/`: a method called `x` is the one subclass of `Method` that `strategies/x.py` defines.

The hybrid of two methods `x+y` is that of `strategies/x_y.py`; files that begin with `_` are what methods share.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from fcil.errors import ConfigError
from fcil.method import Method
from fcil.registry.files import methods_of

__all__ = ["FCIL", "method_names", "package", "shipped_class"]

FCIL = Path(__file__).parents[1]
"""The folder of the package `fcil`."""


def package() -> ModuleType:
    """Import the package of methods: `fcil.strategies`, which in a checkout is the folder `strategies/`.

    Raises:
        ConfigError: it is missing, or another package of that name hides it (there is one on PyPI).
    """
    if find_spec("fcil.strategies") is not None:
        return import_module("fcil.strategies")
    other = find_spec("strategies")
    folders = list(other.submodule_search_locations or []) if other else []
    note = f"; another package of that name is in {Path(folders[0]).resolve().parent}" if folders else ""
    raise ConfigError(
        f"the folder strategies/ was not found beside {FCIL}{note}. "
        "Run from the checkout, or install fcil again (pip install -e .)"
    )


def modules() -> dict[str, str]:
    """Map each shipped method's name to that of the module that defines it."""
    stems = {m.name for m in iter_modules(package().__path__) if not m.name.startswith("_")}
    return {m.replace("_", "+") if "_" in m and stems.issuperset(m.split("_")) else m: m for m in stems}


def method_names() -> list[str]:
    """List the names of all shipped methods, sorted."""
    return sorted(modules())


def shipped_class(name: str) -> type[Method]:
    """Load the class of a shipped method.

    Raises:
        ConfigError: its file cannot be imported, or defines another number of methods than one.
    """
    stem = modules()[name]
    file = f"strategies/{stem}.py"
    try:
        module = import_module(f"{package().__name__}.{stem}")
    except Exception as error:  # a draft may raise anything
        raise ConfigError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    classes = methods_of(module)
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes)
        number = f"it defines {len(classes)}: {names}" if classes else "it defines none"
        raise ConfigError(f"{file}: must define exactly one subclass of fcil.method.Method; {number}")
    return classes[0]
