"""Show the adapters: a table of all, and the settings of one."""

import json
from inspect import cleandoc

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fcil.model.adapters import ADAPTERS, HEAD, adapter_class, adapter_settings
from fcil.report.settings_table import method_table

__all__ = ["adapter_page", "adapters_table"]

_HEAD = "Train the head's rows alone, on frozen features."


def adapters_table() -> Table:
    """Make a table of one row an adapter, name and what it does."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, kind in ADAPTERS.items():
        table.add_row(Text(name), Text(cleandoc(kind.__doc__ or "").partition("\n")[0]))
    table.add_row(Text(HEAD), Text(_HEAD))
    return table


def adapter_page(name: str) -> Group:
    """Show an adapter: what it does, and its settings: default, range, unit, meaning.

    Raises:
        ConfigError: no such adapter.
    """
    kind = adapter_class(name, repr(name))
    doc = cleandoc(kind.__doc__ or "") if kind else _HEAD
    settings = adapter_settings(kind)
    if not settings:
        return Group(Text(f'{doc}\n\nIn [method]: adapter = "{name}". It has no settings, and no rank.'))
    first = next((f"({s.name} = {json.dumps(s.default)})" for s in settings if s.name != "targets"), "")
    text = f'{doc}\n\nIn [method]: adapter = "{name}{first}"; the rank is method.rank.'
    return Group(method_table(settings, text))
