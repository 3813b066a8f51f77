"""The filters, by the names that settings give them."""

from collections.abc import Mapping
from functools import lru_cache

from fcil.errors import ConfigError
from fcil.filters.base import Filter
from fcil.filters.coordinates import Median, Trimmed
from fcil.filters.selection import Krum, MultiKrum, Norm
from fcil.options import nearest, parse, parse_call

__all__ = ["FILTERS", "NONE", "parse_filter"]

FILTERS: Mapping[str, type[Filter]] = {
    "norm": Norm,
    "median": Median,
    "trimmed": Trimmed,
    "krum": Krum,
    "multi_krum": MultiKrum,
}
NONE = "none"
"""The name that stands for no filter: all good updates are merged as they are."""
EXPECTED = '"none", a filter, "median", or one with its settings, "multi_krum(malicious = 2, keep = 5)"'


@lru_cache(maxsize=16)
def parse_filter(text: str) -> Filter | None:
    """The filter that `run.filter` names, `name` or `name(key = value, ...)`; None for none.

    Raises:
        ConfigError: no such filter, or settings that it does not admit.
    """
    where = f"run.filter = {text!r}"
    name, settings = parse_call(text, where, EXPECTED)
    if name == NONE and not settings:
        return None
    if name not in FILTERS:
        raise ConfigError(f"{where}: no such filter. {nearest(name, [NONE, *FILTERS])}")
    return parse(FILTERS[name], settings, lambda key: f"{where}: {key}")
