"""Carries secure sums over a Flower grid: four messages to each client in place of one."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Protocol, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fcil.config import Config
from fcil.exchange.flower import messages, reply_messages, secure_messages
from fcil.exchange.flower.internals import CRASHED, LATE
from fcil.exchange.flower.secure_answers import of_run
from fcil.exchange.flower.settling import Streaming, reason_of, replies
from fcil.exchange.secure import Answers, secure_sum
from fcil.exchange.secure_party import GONE, Sum
from fcil.secure import Keys, Revealed
from fcil.server.replies import Failure, Partial
from fcil.server.request import Request

__all__ = ["over_grid"]

CRASHES = 2
"""How often a worker of ours may die at a client's work in a phase; once may have another cause."""
ATTEMPTS = 3
"""How often a sum is begun on workers of ours, of which some die."""

T = TypeVar("T")


class Clients(Protocol):
    """The clients that a grid reaches (`FlowerExchange`)."""

    grid: Grid
    config: Config
    job: messages.Job

    def address(self, contents: dict[int, RecordDict], kind: str, group: str) -> dict[int, Message]:
        """Client -> the message to its node; clients whose node is not connected have none."""

    def settle(self, clients: Iterable[int]) -> None:
        """Give clients a process each that keeps their secrets, where any could work for them."""

    def why_missing(self, client: int) -> str:
        """Say why a client has no node."""

    def returned(self, lost: Iterable[int], wait: bool) -> bool:
        """Doubt the nodes of clients that were lost; wait until one is there, and tell whether one is."""


class _GridCarrier:
    """Carries the messages of one phase's secure sum."""

    def __init__(self, exchange: Clients, request: Request) -> None:
        self.exchange, self.request, self.attempts = exchange, request, 1
        self.common = messages.phase_content(request.phase, exchange.job)
        self.died: set[int] = set()
        """Clients whose process has ended with their secrets, in this attempt."""
        self.ended: Counter[int] = Counter()
        """Client -> how often a worker of ours ended at its work; at CRASHES it is not asked again."""
        self.given_up: dict[int, str] = {}
        """Clients that cost others their secrets, and the reason: they are not asked again in this phase."""
        self.blamed = 0
        """How many were given up when this attempt began: the next one counts as further on where more are."""

    def _ask(self, contents: Mapping[int, RecordDict], read: Callable[[RecordDict], T]) -> Answers[T]:
        """Send messages and yield what comes back, once for each client; then the reason for each that is missing."""
        seconds = self.exchange.config.run.client_timeout
        sent = self.exchange.address(dict(contents), messages.SECURE, str(self.request.phase.index))
        waiting = dict.fromkeys(contents)
        owners: dict[str, int] = {}
        for reply in replies(self.exchange.grid, list(sent.values()), seconds):
            # a grid numbers the messages when it sends them, so only now
            owners = owners or {message.metadata.message_id: client for client, message in sent.items()}
            client = owners.get(reply.metadata.reply_to_message_id)
            if client in waiting:
                del waiting[client]
                yield client, self._settled(reply, client, read)
        for client in waiting:
            late = f"no reply within {seconds:g} seconds (run.client_timeout)"
            yield client, Failure(client, late if client in sent else self.exchange.why_missing(client))

    def _settled(self, reply: Message, client: int, read: Callable[[RecordDict], T]) -> T | Failure:
        if reply.has_error():
            self.died |= {client} if reply.error.code == CRASHED else set()
            self._blame(client, reply)
            return Failure(client, reason_of(reply))
        try:
            failure = reply_messages.read_failure(reply.content)
            if failure is None:
                return read(reply.content)
        except ValueError as error:
            return Failure(client, f"malformed reply: {error}")
        self.died |= {client} if failure.reason == GONE else set()
        return replace(failure, client=client)  # of whatever client it speaks

    def _blame(self, client: int, reply: Message) -> None:
        """Give a client up that was too late, or at whose work a worker died again: it takes the secrets of others."""
        if isinstance(self.exchange.grid, Streaming) and reply.error.code in (LATE, CRASHED):
            self.ended[client] += CRASHES if reply.error.code == LATE else 1
            if self.ended[client] >= CRASHES:
                self.given_up[client] = reason_of(reply)

    def _longest_first(self, clients: Iterable[int]) -> list[int]:
        return sorted(clients, key=lambda c: (-self.request.num_examples[c], c))

    def keys(self, of: Sum, clients: Collection[int]) -> Answers[Keys]:
        yield from ((c, Failure(c, self.given_up[c])) for c in clients if c in self.given_up)
        remaining_clients = [c for c in clients if c not in self.given_up]
        self.blamed = len(self.given_up)
        self.exchange.settle(self._longest_first(remaining_clients))
        contents = {c: secure_messages.with_step(self.common, secure_messages.KEYS, of, c) for c in remaining_clients}
        yield from self._ask(contents, secure_messages.read_keys)

    def share(self, of: Sum, keys: Mapping[int, Keys]) -> Answers[dict[int, bytes]]:
        common = secure_messages.with_keys(self.common, keys)
        contents = {c: secure_messages.with_step(common, secure_messages.SHARES, of, c) for c in keys}
        yield from self._ask(contents, secure_messages.read_boxes)

    def masked(self, of: Sum, boxes: Mapping[int, Mapping[int, bytes]]) -> Answers[Partial]:
        work = messages.single_contents(self.request, self.exchange.job)
        contents = {
            c: secure_messages.with_boxes(
                secure_messages.with_step(work[c], secure_messages.MASK, of, c), boxes[c]
            )
            for c in self._longest_first(boxes)
        }  # fmt: skip
        yield from self._ask(contents, reply_messages.read_partial)

    def reveal(self, of: Sum, arrived: Set[int]) -> Answers[Revealed]:
        common = secure_messages.with_arrived(self.common, arrived)
        contents = {c: secure_messages.with_step(common, secure_messages.ARRIVED, of, c) for c in arrived}
        yield from self._ask(contents, secure_messages.read_revealed)

    def anew(self, short: bool, lost: Sequence[Failure]) -> bool:
        """Tell whether to start the sum again, because one of our own workers has died; otherwise to wait."""
        died = any(failure.client in self.died for failure in lost)
        self.died.clear()
        # what a client's code raised does not pass by waiting
        absent = [failure.client for failure in lost if not failure.raised]
        if isinstance(self.exchange.grid, Streaming):
            self.exchange.returned(absent, wait=False)
            self.attempts += died and len(self.given_up) == self.blamed  # with fewer clients it gets on
            return died and self.attempts <= ATTEMPTS
        return self.exchange.returned(absent, wait=short and bool(absent))


def over_grid(exchange: Clients, request: Request) -> Partial:
    """Carry out a phase's secure sum over the nodes, or our workers."""
    carrier = _GridCarrier(exchange, request)
    run = exchange.config.run
    return secure_sum(request, carrier, run.min_clients, carrier.anew, run.on_client_error, of_run(exchange.job))
