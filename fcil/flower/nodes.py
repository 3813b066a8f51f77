"""Which node holds which client's data, on a grid that is not ours: node ids are random, so the nodes are asked."""

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fcil.errors import ConfigError
from fcil.flower import messages

__all__ = ["Nodes"]

_HELLO_SECONDS = 60.0
_PAUSE_SECONDS = 0.5


class Nodes:
    """The map client -> node id, brought up to date before each phase: a SuperNode that restarts has a new id."""

    def __init__(self, grid: Grid, clients: int, seconds: float) -> None:
        """Wait for a node per client.

        Raises:
            ConfigError: some have none after `seconds`.
        """
        self.grid, self.clients = grid, clients
        self._partitions: dict[int, int] = {}
        end = time.monotonic() + seconds
        while len(found := self.current()) < clients:
            if time.monotonic() > end:
                self._complain(found, seconds)
            time.sleep(_PAUSE_SECONDS)

    def _complain(self, found: dict[int, int], seconds: float) -> None:
        missing = [str(client) for client in range(self.clients) if client not in found]
        raise ConfigError(
            f"partition.clients = {self.clients}, but after {seconds:g} seconds no node holds client "
            f"{', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''} ({len(self._partitions)} nodes answered). "
            f"Start a SuperNode for each with --node-config 'partition-id=K', or simulate with --federation-config "
            f"'num-supernodes={self.clients}'"
        )

    def _greet(self, ids: Iterable[int]) -> None:
        """Ask nodes that are new; one that does not answer is asked again the next time."""
        hello = [Message(RecordDict(), node, messages.HELLO) for node in ids]
        if not hello:
            return
        for reply in self.grid.send_and_receive(hello, timeout=_HELLO_SECONDS):
            if not reply.has_error():
                self._partitions[reply.metadata.src_node_id] = messages.read_hello(reply.content)

    def current(self) -> dict[int, int]:
        """Client -> node, for the nodes that are connected now.

        Raises:
            ConfigError: two nodes hold the same client.
        """
        connected = list(self.grid.get_node_ids())
        self._greet([node for node in connected if node not in self._partitions])
        found: dict[int, int] = {}
        for node in connected:
            client = self._partitions.get(node, -1)
            if client in found:
                raise ConfigError(f"two nodes have partition-id={client}: give each SuperNode its own in --node-config")
            if 0 <= client < self.clients:
                found[client] = node
        return found
