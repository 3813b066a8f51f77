"""Federated class-incremental learning with a frozen ViT, from Python.

    import fcil

    run = fcil.run("configs/quickstart.toml", {"partition.beta": 0.1})
    run.final_accuracy, run.accuracy

Names are imported when they are first asked for, so that `import fcil` costs nothing. See docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fcil.checkout import install

if TYPE_CHECKING:
    from fcil.api import compare, load_config, methods, open_run, run
    from fcil.config import Config
    from fcil.errors import ConfigError, FcilError, MergeError, RunError
    from fcil.report.comparison_result import Comparison
    from fcil.report.methods import MethodInfo, SettingInfo
    from fcil.report.run_result import Run

    __version__: str

__all__ = [
    "Comparison", "Config", "ConfigError", "FcilError", "MergeError", "MethodInfo", "Run", "RunError", "SettingInfo",
    "compare", "load_config", "methods", "open_run", "run",
]  # fmt: skip

install()

_HOMES = {
    **dict.fromkeys(("compare", "load_config", "methods", "open_run", "run"), "fcil.api"),
    **dict.fromkeys(("ConfigError", "FcilError", "MergeError", "RunError"), "fcil.errors"),
    **dict.fromkeys(("MethodInfo", "SettingInfo"), "fcil.report.methods"),
    "Comparison": "fcil.report.comparison_result",
    "Config": "fcil.config",
    "Run": "fcil.report.run_result",
}
"""Name -> the module that has it."""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fcil")
    except PackageNotFoundError:  # a bare checkout
        return "0+unknown"


def _lazy(name: str) -> Any:
    """Import a name of `__all__`, or look `__version__` up, on first use."""
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'fcil' has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # type checkers would take any name for one that it knows
    __getattr__ = _lazy


def __dir__() -> list[str]:
    """List the public names, which `dir(fcil)` has before any of them is imported."""
    return sorted({*__all__, "__version__"})
