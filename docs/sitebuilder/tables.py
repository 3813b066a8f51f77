"""Writes tables as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING

from fcil.options import Described
from fcil.report.settings_table import admits

from .docstrings import escaped

__all__ = ["cell", "settings_table", "table"]


def cell(text: str) -> str:
    """Write a text into a cell of a table."""
    return escaped(text).replace("\n", " ").replace("|", r"\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Write a table of cells that are Markdown already; the last `numbers` columns are set to the right."""
    marks = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [header, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _value(value: object) -> str:
    """Write a default as in TOML, where there is no word for nothing."""
    if value is MISSING:
        return "required"
    return "none" if value is None else f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_table(settings: Iterable[Described]) -> str:
    """Write the settings of a schema: name, default, what it admits, unit, meaning."""
    rows = [
        (
            f"`{setting.name}`", _value(setting.default),
            cell(admits(setting)), cell(setting.option.unit), cell(setting.option.help),
        )
        for setting in settings
    ]  # fmt: skip
    if not rows:
        return "It has no settings.\n"
    units = any(row[3] for row in rows)
    header = ("setting", "default", "admits", "unit", "meaning")
    keep = [column for column in range(5) if column != 3 or units]
    body = table([header[c] for c in keep], [[row[c] for c in keep] for row in rows])
    return f'<div class="settings" markdown>\n\n{body}\n</div>\n'
