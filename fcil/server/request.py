"""A server's request to the clients of one phase."""

from dataclasses import dataclass, field

from fcil.arrays import State
from fcil.method import Broadcast, Local, Method, Phase
from fcil.server.arrivals import Arrivals
from fcil.server.validation import Expected, expected

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """A request holds what the server asks of the clients of one phase."""

    phase: Phase
    method: Method
    """The method that acts in this phase; stays on the server, as clients build their own."""
    broadcast: Broadcast
    num_examples: dict[int, int]
    """Client that is asked -> number of its training samples in this task."""
    state: State
    """The server's state from which the broadcast was made; stays on the server."""
    local: Local
    groups: tuple[tuple[int, ...], ...] = ()
    """Groups of clients whose updates are summed by the worker that trains them; empty: every client sends its own."""
    secure: bool = False
    """Whether the sums of the one group of all clients are masked, so that the server sees no others."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    """The clients of which the server may have had secure sums before; it stays on the server."""

    @property
    def expected(self) -> Expected:
        """The names, shapes and counts of a good reply."""
        return expected(self.phase, self.broadcast, self.local, self.num_examples)
