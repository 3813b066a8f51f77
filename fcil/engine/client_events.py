"""Sums up the events of single clients, which in runs with thousands of them fill a disk and nobody reads."""

from collections.abc import Mapping
from typing import Any

from fcil.server.replies import Emit

__all__ = ["Summary", "asked"]

PLACE = ("phase", "task", "round")


def asked(event: Mapping[str, Any]) -> int:
    """The number of clients that a `phase` event asked: it lists them, or in a summary says how many."""
    clients: list[int] | int = event["clients"]
    return clients if isinstance(clients, int) else len(clients)


class Summary:
    """Passes events on, but one event `clients` for each phase in place of one `client` for each reply.

    It has the number of good replies, and of every metric the sum over those that told it. Who was asked is left out of
    `phase`, which says how many; a client without a good update still has an event of its own.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._sums: dict[str, float] = {}
        self._count = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Pass an event on, or add it to the sums."""
        if event["event"] == "client":
            self._count += 1
            for name, value in event.items():
                if name not in ("event", "client", *PLACE):
                    self._sums[name] = self._sums.get(name, 0) + value
            return
        if event["event"] == "phase":
            self._sums, self._count = {}, 0  # what an interrupted phase has left
            event = {**event, "clients": len(event["clients"])}
        if event["event"] == "merged":
            place = {name: event[name] for name in PLACE}
            self._emit({"event": "clients", **place, "count": self._count, "sums": dict(sorted(self._sums.items()))})
        self._emit(event)
