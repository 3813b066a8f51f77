"""Names of run folders: one for each configuration with what was changed of it."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["run_folder"]

RUNS = Path("runs")
NAME_LENGTH = 100
"""Characters of settings that the name of a folder may hold; of more there is a hash."""


def run_folder(name: str, changes: Iterable[str], before: str = "", after: str = "") -> Path:
    """Where a run is written unless a folder is named.

    So the same call or command finds the same run again, and one with other settings does not run into it.

    Args:
        name: of the configuration.
        changes: `section.key=value` for each setting that differs from it, in any order.
    """
    text = "".join("+" + re.sub(r"[^\w.=,-]+", "_", change.replace(" ", "")) for change in sorted(changes))
    if len(text) > NAME_LENGTH:
        text = f"+{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return RUNS / f"{before}{name}{text}{after}"
