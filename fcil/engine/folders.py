"""Names of run folders: one for each configuration with what was changed of it."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["run_folder"]

RUNS = Path("runs")
NAME_LENGTH = 100
"""Characters of settings that the name of a folder may hold; of more there is a hash."""


def _part(change: str) -> str:
    """Write a setting as a part of a folder's name; where it names a method's file or class, its end and a hash."""
    key, _, value = change.partition("=")
    if key.startswith("method.") and re.search(r"[/:]", value):
        end = re.sub(r"[^\w.=,-]+", "_", value.rpartition("/")[2]).strip("_")
        return f"{key}={end}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.=,-]+", "_", change)


def run_folder(name: str, changes: Iterable[str], before: str = "", after: str = "") -> Path:
    """Name the folder that a run is written to unless another is named.

    So the same call or command finds the same run again, and one with other settings does not run into it.

    Args:
        name: of the configuration.
        changes: `section.key=value` for each setting that differs from it, in any order.
    """
    text = "".join(f"+{_part(change.replace(' ', ''))}" for change in sorted(changes))
    if len(text) > NAME_LENGTH:
        text = f"+{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return RUNS / f"{before}{name}{text}{after}"
