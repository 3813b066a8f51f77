"""Makes `fcil.strategies` the one import path of the shipped methods and their bases, in a checkout as in a wheel.

In a wheel it is a folder of the package. In a checkout the folder lies beside `fcil/` and is called `strategies`; there
`fcil.strategies.x` becomes another name of the module `strategies.x`, so that no class exists twice.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

__all__ = ["install"]

HERE = Path(__file__).parent
ALIAS, NAME = "fcil.strategies", "strategies"


class _AliasLoader(Loader):
    """Loads a module by returning the one that another name already stands for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself; importlib is about to overwrite its `__spec__`."""
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute nothing, as that has been done; put `__spec__` back, which relative imports go by."""
        module.__spec__ = self.spec


class _AliasFinder(MetaPathFinder):
    """Answers for `fcil.strategies` and what is below, before anybody takes the files for other modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find an alias; None for other names, and where `strategies` is missing or somebody else's: one is on PyPI."""
        if fullname != ALIAS and not fullname.startswith(f"{ALIAS}."):
            return None
        if find_spec(NAME) is None or not hasattr(import_module(NAME), "FCIL"):
            return None
        name = fullname.removeprefix("fcil.")
        return ModuleSpec(fullname, _AliasLoader(name)) if find_spec(name) else None


def install() -> None:
    """Install the finder, once, when `fcil` is imported; in a wheel there is nothing to do."""
    if not (HERE / NAME).exists() and not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())
