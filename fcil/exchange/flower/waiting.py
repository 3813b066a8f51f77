"""Waits for nodes that are away, so that a restart of a node or of its machine need not cost updates."""

import logging
import time
from collections.abc import Callable, Iterable

from fcil.exchange.flower.nodes import Nodes

__all__ = ["Waiting"]

_PAUSE_SECONDS = 1.0
_log = logging.getLogger("flwr")


class Waiting:
    """Waits for clients' nodes, in each phase for at most `run.wait_for_clients` seconds in all.

    A client that was waited for in vain is only waited for again where its update is needed, or after it was back: a
    node that is gone for good does not cost the time in every phase.
    """

    def __init__(
        self,
        nodes: Nodes,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wait for nodes of `nodes`, never where `seconds` is 0; `clock` and `sleep` are for tests."""
        self.nodes, self.seconds, self.clock, self.sleep = nodes, seconds, clock, sleep
        self._end: float | None = None
        self._in_vain: set[int] = set()

    def begin(self) -> None:
        """Begin a phase: its time to wait runs from the first need to."""
        self._end = None

    def _left(self, clients: Iterable[int]) -> float:
        if self._end is None:
            self._end = self.clock() + self.seconds
            shown = ", ".join(map(str, sorted(clients)[:10]))
            _log.info("waiting up to %g seconds (run.wait_for_clients) for clients: %s", self.seconds, shown)
        return self._end - self.clock()

    def for_all(self, clients: Iterable[int]) -> None:
        """Wait until every one of these clients has a node, except for those that were waited for in vain."""
        if not self.seconds:
            return
        wanted = set(clients)
        while True:
            missing = wanted - self.nodes.current().keys()
            self._in_vain &= missing
            if missing <= self._in_vain:
                return
            remaining_seconds = self._left(missing)
            if remaining_seconds <= 0:
                self._in_vain |= missing
                return
            self.sleep(min(_PAUSE_SECONDS, remaining_seconds))

    def for_any(self, clients: Iterable[int]) -> bool:
        """Wait a moment, and then until one of these clients has a node; False when the phase's time is over."""
        wanted = set(clients)
        while self.seconds and (remaining_seconds := self._left(wanted)) > 0:
            self.sleep(min(_PAUSE_SECONDS, remaining_seconds))
            if wanted & self.nodes.current().keys():
                return True
        return False
