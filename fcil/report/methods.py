"""What `fcil methods` shows, read from the methods themselves: their docstrings, settings and declarations."""

import re
from collections.abc import Iterable
from inspect import cleandoc

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.errors import ConfigError
from fcil.method import Method, Phase, Statistic, Task
from fcil.options import describe
from fcil.registry import build_method, method_class
from fcil.report.tables import method_table

__all__ = ["method_page", "methods_table", "needs", "source"]


def source(doc: str) -> str:
    """The first arXiv number that a docstring names, or nothing."""
    found = re.search(r"arXiv[:\s]\s*(\d{4}\.\d{4,5})", doc)
    return f"arXiv {found[1]}" if found else ""


def _said(statistic: Statistic) -> str:
    """`ProjectedGram` -> `projected gram`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(statistic).__name__).lower()


def _together(each: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(each))


def needs(method: Method) -> str:
    """What its clients report beside weights in two rounds and at a task's end, at these settings."""
    task = Task(0, 0, 1)
    kinds = method.phases(task, 2)
    phases = [Phase(i, kind, task, i + 1, 0, len(kinds) - i - 1) for i, kind in enumerate(kinds)]
    asked = {
        kind: _together(
            _said(s)
            for phase in phases
            if phase.kind == kind
            for p in method.acting(phase).local(phase).passes
            for s in p.statistics
        )
        for kind in ("train", "report")
    }
    told = [asked["train"]] if asked["train"] else []
    told += [f"at a task's end {asked['report']}"] if asked["report"] else []
    return "; ".join(told) or "nothing (data-free)"


def methods_table(names: Iterable[str]) -> Table:
    """One row a method; one that cannot be imported is said to be so, and hides no other."""
    table = Table("method", "what it is", "source", "merges", "clients report beside weights", box=None)
    for name in names:
        try:
            method, doc = build_method(name, {}), method_class(name).__doc__ or ""
            told = (doc.partition("\n")[0], source(doc), method.merges, needs(method))
        except ConfigError as error:
            told = (str(error), "", "", "")
        table.add_row(name, *map(Text, told))
    return table


def method_page(name: str) -> Group:
    """What a method is, where it applies, what it needs, and its settings: default, range, unit, meaning.

    Raises:
        ConfigError: no such method, or one that cannot be imported.
    """
    found = method_class(name, repr(name))
    method, doc = build_method(name, {}), cleandoc(found.__doc__ or "")
    facts = f"Merges {method.merges}. Clients report beside weights, at the defaults: {needs(method)}."
    return Group(method_table(describe(found), f"{doc}\n\n{facts}"))
