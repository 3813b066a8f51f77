"""Formats numbers for tables."""

import numpy as np

__all__ = ["MEGA", "percent"]

MEGA = 1e6


def percent(share: float | None) -> str:
    """Format a share in percent with one decimal, or a dash where there is nothing to measure."""
    return "-" if share is None or np.isnan(share) else f"{100 * share:.1f}"
