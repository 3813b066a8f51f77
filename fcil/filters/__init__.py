"""Filters of clients' updates, against those that are well-formed and poisoned: applied before any merge.

The setting `run.filter` names one; the loop applies it once all replies of a phase are checked, and records what it
did. Why they are made as they are: docs/decisions/0011-filters.md.
"""

from fcil.filters.base import Filter, Filtered
from fcil.filters.choice import FILTERS, parse_filter

__all__ = ["FILTERS", "Filter", "Filtered", "parse_filter"]
