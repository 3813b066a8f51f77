"""Finds the node that holds each client's data, on a grid that is not ours: ids are random, so the nodes are asked.

Every node introduces itself before it is used: at the start, and again when it is new, came back, or did not answer.
One that differs from what the run began with is not used.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

from fcil.errors import ConfigError
from fcil.exchange.flower import messages, reply_messages
from fcil.exchange.flower.settling import SIMULATION
from fcil.exchange.introduction import Introduction, differences
from fcil.server.replies import Failure

__all__ = ["HELLO_SECONDS", "Nodes"]

HELLO_SECONDS = 60.0
"""Seconds within which a node must introduce itself."""
_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE = 600.0
"""Most seconds for which a node that did not introduce itself is left alone."""


def _shown(numbers: Sequence[int]) -> str:
    """The first ten of some numbers."""
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def _problem(client: int, text: str) -> str:
    """Say whose a node's problem is, where the text does not: what is wrong with a site's images begins with it."""
    if client < 0:
        return f"a node: {text}"
    return text if text.startswith((f"site {client}:", f"site {client} ")) else f"client {client}: {text}"


class Nodes:
    """The map client -> node id, brought up to date before each phase: a SuperNode that restarts may have a new id."""

    def __init__(
        self,
        grid: Grid,
        clients: int,
        job: messages.Job,
        server: Introduction,
        seconds: float,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        hello_seconds: float = HELLO_SECONDS,
    ) -> None:
        """Wait until every client has a node.

        Args:
            job: the run that the nodes are asked about.
            server: what the nodes must agree with; an empty hash is not compared.
            seconds: time for all of them to connect.
            patience: time for those that are connected to introduce themselves, for which they read their images.
            hello_seconds: time for one to answer once it is asked.

        Raises:
            ConfigError: some clients have no node after `seconds`; two nodes hold the same client; or a node has other
                code, settings, weights or data, or cannot load them.
        """
        self.grid, self.clients, self.job, self.server, self._clock = grid, clients, job, server, clock
        self._hello_seconds = hello_seconds
        self.first: dict[int, Introduction] = {}
        """Client -> what its node told when it was first met, which later ones must agree with."""
        self.problems: dict[int, str] = {}
        """Client -> why its node is not used."""
        self._known: dict[int, Introduction] = {}
        self._silent: dict[int, tuple[float, float]] = {}
        self._last_error = ""
        self._held: dict[int, int] = {}
        """Connected node -> the client that it says it holds, also where it cannot be used."""
        start = clock()
        while len(nodes := self.current()) < clients:
            self._check_problems()
            waited, enough = clock() - start, len(set(grid.get_node_ids())) >= clients
            if waited > (max(seconds, patience) if enough else seconds):
                self._complain(nodes, waited)
            self._silent.clear()  # a node that reads its images is asked again and again
            time.sleep(_PAUSE_SECONDS)
        self._check_problems()

    def _check_problems(self) -> None:
        """Raise ConfigError for numbers that two nodes have, and for nodes that cannot be used."""
        problems = []
        for client in sorted(set(self._held.values())):
            same = sorted(node for node, number in self._held.items() if number == client)
            if len(same) > 1 and 0 <= client < self.clients:
                problems.append(
                    f"{'two' if len(same) == 2 else len(same)} nodes have partition-id={client}: give each SuperNode "
                    f"its own in --node-config (they are nodes {_shown(same)} of `flwr supernode list`)"
                )
        problems += [_problem(client, text) for client, text in sorted(self.problems.items())]
        if problems:
            raise ConfigError("; ".join(problems))

    def _complain(self, nodes: dict[int, int], seconds: float) -> None:
        missing = [client for client in range(self.clients) if client not in nodes]
        introduced = f"{len(self._known)} introduced themselves"
        introduced += f", as {_shown(sorted(self._held.values()))}" if self._held else ""
        raise ConfigError(
            f"partition.clients = {self.clients}, but after {seconds:.0f} seconds no node holds client "
            f"{_shown(missing)} ({len(set(self.grid.get_node_ids()))} nodes are connected, {introduced}"
            f"{self._error_told()}). {self._cure()}; one that decodes its images for the first time has "
            "run.introduction_timeout seconds"
        )

    def _cure(self) -> str:
        """Say what helps where clients have no node: fewer clients, more nodes of a simulation, or SuperNodes."""
        if type(self.grid).__name__ == SIMULATION:
            return f"Simulate as many nodes with --federation-config 'num-supernodes={self.clients}'"
        connected = set(self.grid.get_node_ids())
        numbers = sorted(self._held.get(node, -1) for node in connected)
        fewer = numbers and numbers == list(range(len(numbers)))
        start = f"Set partition.clients = {len(numbers)} if these are all, or start" if fewer else "Start"
        return f"{start} a SuperNode for each with --node-config 'partition-id=K'"

    def _error_told(self) -> str:
        """Quote the last error that came in place of an introduction, where there was one."""
        return f"; the last that could not said: {self._last_error}" if self._last_error else ""

    def _greet(self, ids: Iterable[int]) -> None:
        """Ask nodes to introduce themselves; one that does not is left alone for a while, longer each time."""
        content, now = messages.hello_content(self.job), self._clock()
        due_nodes = [node for node in ids if self._silent.get(node, (0.0, now))[1] <= now]
        if not due_nodes:
            return
        hello = [Message(content, node, messages.HELLO) for node in due_nodes]
        for node in due_nodes:
            pause = min(2 * self._silent.get(node, (HELLO_SECONDS / 2, 0.0))[0], _LONGEST_PAUSE)
            self._silent[node] = pause, now + pause
        for reply in self.grid.send_and_receive(hello, timeout=self._hello_seconds):
            if reply.has_error():
                self._last_error = (reply.error.reason or f"error {reply.error.code}").strip()[-500:]
                continue
            try:
                introduction = reply_messages.read_introduction(reply.content)
            except ValueError:  # as if it had not answered
                continue
            self._meet(reply.metadata.src_node_id, introduction)

    def _meet(self, node: int, introduction: Introduction | Failure) -> None:
        """Note what a node told of itself, or why it cannot be used."""
        self._known.pop(node, None)
        self._held[node] = introduction.client
        if isinstance(introduction, Failure):
            self.problems[introduction.client] = introduction.reason
            return
        if not 0 <= introduction.client < self.clients:
            return  # a node that this run has no use for
        self._silent.pop(node, None)
        wanted = self.server
        if introduction.client in self.first:
            wanted = replace(wanted, data=self.first[introduction.client].data)
        if problems := differences(introduction, wanted):
            self.problems[introduction.client] = "; ".join(problems)
            return
        self.problems.pop(introduction.client, None)
        self.first.setdefault(introduction.client, introduction)
        self._known[node] = introduction

    def doubt(self, client: int) -> None:
        """Ask the node of a client anew before the next phase: it may have another partition-id or data now."""
        for node in [node for node, introduction in self._known.items() if introduction.client == client]:
            del self._known[node]

    def current(self) -> dict[int, int]:
        """Client -> node, for the nodes that are connected now; where two hold the same client, the one met first."""
        connected = set(self.grid.get_node_ids())
        for gone in self._held.keys() - connected:  # when it comes back, it may be another process
            del self._held[gone]
            self._known.pop(gone, None)
        self._greet(sorted(connected - self._known.keys()))
        first: dict[int, int] = {}
        for node, introduction in self._known.items():
            if 0 <= introduction.client < self.clients:
                first.setdefault(introduction.client, node)
        return first

    def identity(self, client: int) -> str:
        """The hash of what a client's node has of the run, as it told when it was first met; empty before that."""
        return self.first[client].identity if client in self.first else ""

    def why_missing(self, client: int) -> str:
        """Say why a client has no node."""
        return self.problems.get(client, "its node is not connected")
