"""Writes the pages of the Python API, which mkdocstrings fills from the docstrings."""

import pkgutil
from importlib import import_module
from typing import NamedTuple

__all__ = ["API", "api_pages"]


class Shown(NamedTuple):
    """A package on its page."""

    what: str
    """What it is; the first sentence stands in the list of packages."""
    first: str = ""
    """Names that come before the others of its `__all__`."""
    modules: bool = False
    """All of its modules are shown, in place of what `__all__` names."""


API = {
    "fcil": Shown(
        "What `import fcil` gives: runs, comparisons, and the methods as data. "
        "[Work from Python](../python.md) shows how it is used.",
        "run compare open_run load_config methods Run Comparison",
    ),
    "fcil.method": Shown(
        "The contract of a method: what its author subclasses and is given. "
        "[Write your own method](../adding-a-method.md) walks through it.",
        "Method Averaging Local Pass Statistic Collector Computed Adapter Client Step Model Phase Task Broadcast "
        "ClientUpdate",
    ),
    "fcil.options": Shown("How a setting is declared, and read from a configuration.", "Option"),
    "fcil.statistics": Shown(
        "What clients may report beside weights. Each is a statistic that a method names in `local`.", modules=True
    ),
    "fcil.merging": Shown(
        "Closed forms over arrays. They use NumPy and SciPy alone, and make of what clients sent what is merged.",
        modules=True,
    ),
    "fcil.filters": Shown("Filters of updates, against poisoned ones. [Robustness](../robustness.md) compares them."),
}
"""Package -> how it is shown."""


def _names(package: str, shown: Shown) -> list[str]:
    """List what a package shows, in the order of its page."""
    module = import_module(package)
    if shown.modules:
        return [found.name for found in pkgutil.iter_modules(module.__path__)]
    first = shown.first.split()
    rest = sorted(set(module.__all__) - set(first), key=lambda name: (name[0].isupper(), name))
    return [name for name in first if name in module.__all__] + rest


def api_pages() -> dict[str, str]:
    """Write the pages by name, an index first."""
    pages, rows = dict[str, str](), ""
    for package, shown in API.items():
        page = f"{package.removeprefix('fcil.')}.md"
        names = "".join(f"::: {package}.{name}\n\n" for name in _names(package, shown))
        pages[f"api/{page}"] = f"# {package}\n\n{shown.what}\n\n{names}"
        rows += f"| [`{package}`]({page}) | {shown.what.partition('. ')[0].rstrip('.')} |\n"
    top = (
        "# Python API\n\nGenerated from the docstrings of what is public.\n\n| package | what it is |\n| --- | --- |\n"
    )
    return {"api/index.md": top + rows, **pages}
