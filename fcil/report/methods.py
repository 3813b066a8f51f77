"""Describe methods for `fcil methods`, from their own docstrings, settings and declarations."""

import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass
from inspect import cleandoc
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.errors import ConfigError
from fcil.method import Local, Method, Phase, Statistic, Task
from fcil.options import Described, describe
from fcil.registry import build_method, method_class
from fcil.report.settings_table import method_table

__all__ = [
    "MethodInfo",
    "SettingInfo",
    "method_info",
    "method_page",
    "methods_info",
    "methods_table",
    "needs",
    "source",
]


def source(doc: str) -> str:
    """Find the first arXiv number that a docstring names; empty if it names none."""
    match = re.search(r"arXiv[:\s]\s*(\d{4}\.\d{4,5})", doc)
    return f"arXiv {match[1]}" if match else ""


def _in_words(statistic: Statistic) -> str:
    """Split a statistic's name into words: `ProjectedGram` -> `projected gram`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(statistic).__name__).lower()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _reported(local: Local) -> Iterable[str]:
    """Yield in words what a client reports beside weights in a phase."""
    yield from map(_in_words, local.training)
    yield from (_in_words(statistic) for data_pass in local.passes for statistic in data_pass.statistics)
    yield from (computed.what for computed in local.computed)


def needs(method: Method) -> str:
    """Say what a method's clients report beside weights in two rounds and at a task's end, at these settings."""
    task = Task(0, 0, 1)
    kinds = method.phases(task, 2)
    phases = [Phase(i, kind, task, i + 1, 0, len(kinds) - i - 1) for i, kind in enumerate(kinds)]
    works = [(phase.kind, method.acting(phase).local(phase)) for phase in phases]
    reports = {
        kind: _listed(words for its_kind, local in works if its_kind == kind for words in _reported(local))
        for kind in ("train", "report")
    }
    parts = [reports["train"]] if reports["train"] else []
    parts += [f"at a task's end {reports['report']}"] if reports["report"] else []
    return "; ".join(parts) or "nothing (data-free)"


@dataclass(frozen=True)
class SettingInfo:
    """One setting of a method."""

    name: str
    type: str
    """The type in words: `integer`, `number`, `"gram" | "mean"`."""
    default: Any
    """The default value; None where the setting is `required`."""
    required: bool
    help: str
    unit: str
    low: float | None
    """The least value, itself included; so is the greatest, `high`."""
    high: float | None
    above: float | None
    """The bound that a value must be greater than."""


@dataclass(frozen=True)
class MethodInfo:
    """One method, as `fcil methods` and `fcil.methods()` show it."""

    name: str
    summary: str
    """What it does, in a sentence."""
    source: str
    """Where it is from: the first arXiv number that its text names, or nothing."""
    merges: str
    """Rounds (their clients), tasks, sums, or nothing."""
    reports: str
    """What clients report beside weights, at the defaults."""
    settings: tuple[SettingInfo, ...]
    error: str = ""
    """Why its file cannot be used; then it has neither a summary nor settings."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return asdict(self)


def _setting(described: Described) -> SettingInfo:
    option, required = described.option, described.default is MISSING
    default = None if required else described.default
    return SettingInfo(
        described.name, described.type, default, required, option.help, option.unit, option.low, option.high,
        option.above,
    )  # fmt: skip


def method_info(name: str) -> MethodInfo:
    """Describe a method by its docstring, declarations and settings.

    Raises:
        ConfigError: no such method, or one that cannot be imported.
    """
    kind = method_class(name, repr(name))
    method, doc = build_method(name, {}), cleandoc(kind.__doc__ or "")
    settings = tuple(map(_setting, describe(kind)))
    return MethodInfo(name, doc.partition("\n")[0], source(doc), method.merges, needs(method), settings)


def methods_info(names: Iterable[str]) -> list[MethodInfo]:
    """Describe several methods; for one that cannot be imported say why, and hide no other."""
    records = []
    for name in names:
        try:
            records.append(method_info(name))
        except ConfigError as error:
            records.append(MethodInfo(name, "", "", "", "", (), str(error)))
    return records


def methods_table(names: Iterable[str]) -> Table:
    """Make a table of one row a method, name and what it does: 80 columns are enough. `method_page` has the rest."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for record in methods_info(names):
        table.add_row(Text(record.name), Text(record.error or record.summary))
    return table


def method_page(name: str) -> Group:
    """Show what a method is, what it merges, what it needs, and its settings: default, range, unit, meaning.

    Raises:
        ConfigError: no such method, or one that cannot be imported.
    """
    kind, record = method_class(name, repr(name)), method_info(name)
    facts = f"Merges {record.merges}. Clients report beside weights, at the defaults: {record.reports}."
    return Group(method_table(describe(kind), f"{cleandoc(kind.__doc__ or '')}\n\n{facts}"))
