"""Keeps what runs of one process have in common: data, the backbone, Ray workers, and updates that were computed."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from fcil.exchange.memo import Memo

__all__ = ["Shared"]


@dataclass
class Shared:
    """One data set, one backbone and one set of workers at a time: those that the last run needed."""

    memo: Memo | None = None
    """Updates that runs of a comparison have computed; None where none are remembered."""
    _kept: dict[str, tuple[Hashable, Any, Callable[[Any], None]]] = field(default_factory=dict, repr=False)

    def keep(
        self, kind: str, key: Hashable, make: Callable[[], Any], end: Callable[[Any], None] = lambda thing: None
    ) -> Any:
        """Return what is kept of a kind if it has this key; else let it go and make another.

        Args:
            end: called with what is let go.
        """
        if kind not in self._kept or self._kept[kind][0] != key:
            self.drop(kind)
            self._kept[kind] = key, make(), end
        return self._kept[kind][1]

    def drop(self, kind: str) -> None:
        """Let go what is kept of a kind, if anything is."""
        if kind in self._kept:
            _, thing, end = self._kept.pop(kind)
            end(thing)

    def close(self) -> None:
        """Let go everything."""
        for kind in list(self._kept):
            self.drop(kind)
