"""The base of filters, which look at all checked updates of a phase before these are merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fcil.filters.parts import Starts
from fcil.method import ClientUpdate, Shapes

__all__ = ["Filter", "Filtered"]


@dataclass(frozen=True)
class Filtered:
    """The updates that a filter hands on to the merge, and all that it did to them."""

    updates: list[ClientUpdate]
    """The updates to merge, in the order given; at least one."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Client whose update is left out whole -> the reason."""
    replaced: Mapping[int, float] = field(default_factory=dict)
    """Client -> share of its trained numbers that were replaced; those of which none was are missing."""
    scaled: Mapping[int, float] = field(default_factory=dict)
    """Client -> factor below one by which all its sums were multiplied, and what is no sum accordingly."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter: a frozen dataclass whose fields are its settings, which maps checked updates to updates.

    What it hands on are whole updates, each of which a client could have sent, so that any merge is defined on them.
    """

    @property
    def one_start(self) -> bool:
        """Tell whether clients must begin with the same arrays for their updates to be comparable number by number."""
        return True

    def complaint(self, clients: int) -> str | None:
        """Say why the filter is not defined for as many updates; None if it is."""
        raise NotImplementedError(f"{type(self).__name__}.complaint")

    def apply(self, updates: Sequence[ClientUpdate], starts: Starts, declared: Shapes) -> Filtered:
        """Filter at least one update; those of a number for which there is a complaint must not be given.

        Args:
            updates: checked, and sorted by client.
            starts: client -> the arrays with which it began.
            declared: shapes of the statistics as the method declares them: those that are no sums are a `NoSum`.
        """
        raise NotImplementedError(f"{type(self).__name__}.apply")
