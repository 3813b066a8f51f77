"""Shows a method's or an adapter's settings as a table for the terminal."""

from collections.abc import Sequence
from dataclasses import MISSING
from inspect import cleandoc

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.options import Described

__all__ = ["admits", "method_table"]


def _range(setting: Described) -> str:
    option = setting.option
    bounds = [
        text
        for bound, text in (
            (option.above, f"> {option.above}"), (option.low, f">= {option.low}"), (option.high, f"<= {option.high}")
        )
        if bound is not None
    ]  # fmt: skip
    return ", ".join(bounds)


def admits(setting: Described) -> str:
    """Say which values a setting admits: type and range, without its unit."""
    return " ".join(part for part in (setting.type, _range(setting)) if part)


def _default(value: object) -> str:
    """Write a default as in TOML."""
    if value is MISSING:
        return "required"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def method_table(described: Sequence[Described], doc: str) -> Group:
    """Show a method's docstring and settings: type, default, range, unit, meaning."""
    table = Table("setting", "default", "admits", "meaning", box=None)
    for setting in described:
        values = f"{admits(setting)} {setting.option.unit}".rstrip()
        table.add_row(setting.name, Text(_default(setting.default)), Text(values), Text(setting.option.help))
    return Group(Text(cleandoc(doc)), Text(), table)
