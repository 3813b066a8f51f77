"""What runs lost, in words: said beside the figures of all runs that merged without some of their clients' updates."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["counts", "losses", "said"]


def counts(runs: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Updates that were refused or never came, and updates asked for, over the summaries of some runs.

    The second is 0 where it is not known: a run of before it was recorded is among them.
    """
    each = [(int(run.get("refused", 0)), int(run.get("asked", 0))) for run in runs]
    known = all(asked for _, asked in each)
    return sum(missing for missing, _ in each), sum(asked for _, asked in each) if known else 0


def said(missing: int, asked: int) -> str:
    """`3 of 60 updates missing`; nothing where none is."""
    if not missing:
        return ""
    whole = f" of {asked} updates" if asked else f" update{'s' if missing > 1 else ''}"
    return f"{missing}{whole} missing"


def losses(runs: Iterable[Mapping[str, Any]]) -> str:
    """What the runs of these summaries lost, in words; nothing where they lost nothing."""
    return said(*counts(runs))
