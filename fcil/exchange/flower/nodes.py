"""Finds the node that holds each client's data, on a grid that is not ours: ids are random, so the nodes are asked."""

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fcil.errors import ConfigError
from fcil.exchange.flower import messages

__all__ = ["Nodes"]

_HELLO_SECONDS = 60.0
_PAUSE_SECONDS = 0.5


class Nodes:
    """The map client -> node id, brought up to date before each phase: a SuperNode that restarts has a new id."""

    def __init__(self, grid: Grid, clients: int, seconds: float) -> None:
        """Wait until every client has a node.

        Raises:
            ConfigError: some have none after `seconds`, or two nodes hold the same client.
        """
        self.grid, self.clients = grid, clients
        self._partitions: dict[int, int] = {}
        end = time.monotonic() + seconds
        while len(nodes := self.current()) < clients:
            if time.monotonic() > end:
                self._complain(nodes, seconds)
            time.sleep(_PAUSE_SECONDS)
        partitions = [client for client in self._partitions.values() if client in nodes]
        for client in nodes:
            if partitions.count(client) > 1:
                raise ConfigError(f"two nodes have partition-id={client}: give each SuperNode its own in --node-config")

    def _complain(self, nodes: dict[int, int], seconds: float) -> None:
        missing = [str(client) for client in range(self.clients) if client not in nodes]
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise ConfigError(
            f"partition.clients = {self.clients}, but after {seconds:g} seconds no node holds client {shown} "
            f"({len(self._partitions)} nodes answered). Start a SuperNode for each with --node-config "
            f"'partition-id=K', or simulate with --federation-config 'num-supernodes={self.clients}'"
        )

    def _greet(self, ids: Iterable[int]) -> None:
        """Ask nodes that are new; one that does not answer is asked again the next time."""
        hello = [Message(RecordDict(), node, messages.HELLO) for node in ids]
        if not hello:
            return
        for reply in self.grid.send_and_receive(hello, timeout=_HELLO_SECONDS):
            if not reply.has_error():
                try:
                    client = messages.read_hello(reply.content)
                except ValueError:  # known, and of no use
                    client = -1
                self._partitions[reply.metadata.src_node_id] = client

    def current(self) -> dict[int, int]:
        """Client -> node, for the nodes that are connected now; the first where two hold the same client."""
        connected = set(self.grid.get_node_ids())
        self._greet(connected - self._partitions.keys())
        here = {node: client for node, client in self._partitions.items() if node in connected}
        first: dict[int, int] = {}
        for node, client in here.items():
            if 0 <= client < self.clients:
                first.setdefault(client, node)
        return first
