"""Count the client updates that runs merged without, and say so in words: written beside all results of such runs."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["count_updates", "missing_updates", "missing_updates_text"]


def count_updates(runs: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Sum over run summaries the missing updates, refused or never arrived, and the updates asked for.

    The second is 0 where it is not known: a run of before it was recorded is among them.
    """
    counts = [(int(run.get("refused", 0)), int(run.get("asked", 0))) for run in runs]
    all_counted = all(asked for _, asked in counts)
    return sum(missing for missing, _ in counts), sum(asked for _, asked in counts) if all_counted else 0


def missing_updates_text(missing: int, asked: int) -> str:
    """Say how many updates are missing; empty if none is.

    >>> missing_updates_text(3, 60)
    '3 of 60 updates missing'
    """
    if not missing:
        return ""
    of_asked = f" of {asked} updates" if asked else f" update{'s' if missing > 1 else ''}"
    return f"{missing}{of_asked} missing"


def missing_updates(runs: Iterable[Mapping[str, Any]]) -> str:
    """Say how many updates the runs of these summaries merged without; empty if none is missing."""
    return missing_updates_text(*count_updates(runs))
