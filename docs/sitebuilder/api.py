"""Writes the pages of the Python API, which mkdocstrings fills from the docstrings."""

from importlib import import_module

from .trouble import Trouble

__all__ = ["API", "api_pages"]

API = {
    "fcil": (
        "fcil",
        "What `import fcil` gives: runs, comparisons, and the methods as data. [Work from Python](../python.md) shows how it is used.",
        "fcil",
    ),
    "method": (
        "fcil.method",
        "The contract of a method: what its author subclasses and is given. [Write your own method](../adding-a-method.md) walks through it.",
        "fcil.method",
    ),
    "options": (
        "fcil.options",
        "How a setting is declared, and read from a configuration.",
        "fcil.options",
    ),
    "statistics": (
        "fcil.statistics",
        "What clients may report beside weights: each is a statistic that a method names in `local`.",
        "",
    ),
    "merging": (
        "fcil.merging",
        "Closed forms over arrays, in NumPy and SciPy alone. They take what clients sent and give what is merged.",
        "",
    ),
    "filters": ("fcil.filters", "Filters of updates, against poisoned ones. [Robustness](../robustness.md) compares them.", "fcil.filters"),
}
"""Page -> package, what it is, and the package whose `__all__` is shown; nothing where its modules are."""


def _members(package: str) -> list[str]:
    """List what a package makes public: functions first."""
    names = sorted(import_module(package).__all__, key=lambda name: (name[0].isupper(), name))
    return [f"{package}.{name}" for name in names]


def _modules(package: str) -> list[str]:
    import pkgutil

    found = pkgutil.iter_modules(import_module(package).__path__)
    return [f"{package}.{module.name}" for module in found if not module.name.startswith("_")]


def api_pages() -> dict[str, str]:
    """Write the pages by name, an index first."""
    pages = {}
    rows = []
    for page, (package, what, shown) in API.items():
        names = _members(shown) if shown else _modules(package)
        if not names:
            raise Trouble(f"docs/sitebuilder/api.py: {package} has nothing to show")
        pages[f"api/{page}.md"] = f"# {package}\n\n{what}\n\n" + "".join(f"::: {name}\n\n" for name in names)
        rows.append(f"| [`{package}`]({page}.md) | {what.partition('. ')[0].rstrip('.')} |\n")
    top = "# Python API\n\nGenerated from the docstrings of what is public.\n\n| package | what it is |\n| --- | --- |\n"
    return {"api/index.md": top + "".join(rows), **pages}
