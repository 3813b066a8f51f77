"""Turns the messages that come back over a Flower grid into updates, sums and failures."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from fcil.exchange.flower import reply_messages
from fcil.server.loop import Request
from fcil.server.replies import Failure, Reply

__all__ = ["SIMULATION", "Settling", "Streaming", "reason_of", "replies", "settle", "settle_group", "settled"]

SIMULATION = "InMemoryGrid"
"""Class of the grid in Flower's simulation, whose nodes are processes of this machine."""
_POLL_SECONDS = 0.1


@runtime_checkable
class Streaming(Protocol):
    """A grid of ours (`RayGrid`): any worker serves any client unless pinned; replies are yielded as they arrive."""

    workers: int
    pinned: bool
    """Whether every client has a worker of its own, at the site that has its images."""

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield one reply per message; a late one is an error reply."""

    def close(self) -> None:
        """End the workers' processes."""


@runtime_checkable
class Settling(Protocol):
    """A grid of ours that can keep a client's messages of secure sums with one worker."""

    def settle(self, nodes: Iterable[int]) -> None:
        """Give nodes a worker each that takes these messages."""


def replies(grid: Grid, sent: list[Message], timeout: float) -> Iterator[Message]:
    """Yield replies as they arrive.

    Behind a SuperLink this ends `timeout` seconds after the messages were sent. In Flower's simulation, where nodes
    queue for processors and a message may begin to be worked on long after it was sent, it ends when none has come for
    `timeout` seconds.
    """
    if isinstance(grid, Streaming):
        yield from grid.stream(sent, timeout=timeout)
        return
    waiting = {message_id for message_id in grid.push_messages(sent) if message_id}
    since, queues = time.monotonic(), type(grid).__name__ == SIMULATION
    while waiting and time.monotonic() - since < timeout:
        arrived = list(grid.pull_messages(waiting))
        for reply in arrived:
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        if not arrived:
            time.sleep(_POLL_SECONDS)
        elif queues:
            since = time.monotonic()


def reason_of(reply: Message) -> str:
    """The last line of an error reply that is not empty: Flower's simulation sends whole tracebacks."""
    lines = [line.strip() for line in (reply.error.reason or "").splitlines() if line.strip()]
    return lines[-1][:500] if lines else f"error {reply.error.code} without a reason"


def settle(reply: Message, client: int) -> Reply:
    """Turn a client's reply into an update or a failure; the message that it answers says whose it must be."""
    if reply.has_error():
        return Failure(client, reason_of(reply))
    try:
        answer = reply_messages.read_reply(reply.content)
    except ValueError as error:
        return Failure(client, f"malformed reply: {error}")
    if answer.client != client:
        return Failure(client, f"its reply claims to be from client {answer.client}")
    return answer


def settle_group(reply: Message, group: Sequence[int]) -> Iterator[Reply]:
    """Turn the reply for a group into its sums, or into a failure for each of its clients."""
    if reply.has_error():
        yield from (Failure(client, reason_of(reply)) for client in group)
        return
    try:
        partial = reply_messages.read_partial(reply.content)
    except ValueError as error:
        yield from (Failure(client, f"malformed reply: {error}") for client in group)
        return
    clients = sorted([m.client for m in partial.members] + [f.client for f in partial.failures])
    if clients != sorted(group):
        yield from (Failure(client, f"its group's reply is about clients {clients[:5]}") for client in group)
        return
    yield partial


def settled(
    sent: Mapping[int, Message],
    arriving: Iterable[Message],
    request: Request,
    late: str,
    absent: Callable[[int], str] = lambda client: "its node is not connected",
) -> Iterator[Reply]:
    """Turn the replies to a phase into updates, sums and failures, in their order; then a failure per missing client.

    Args:
        sent: client, or a group's first -> the message to it.
        late: the reason for a client that had a message and did not answer.
        absent: client that had no message -> the reason.
    """
    owners: dict[str, int] = {}
    answered: set[int] = set()
    members = {group[0]: group for group in request.groups} or {client: (client,) for client in request.num_examples}
    for reply in arriving:
        # a grid numbers the messages when it sends them, so only now
        owners = owners or {message.metadata.message_id: client for client, message in sent.items()}
        if reply.metadata.reply_to_message_id in owners:
            client = owners[reply.metadata.reply_to_message_id]
            answered.add(client)
            yield from settle_group(reply, members[client]) if request.groups else [settle(reply, client)]
    for first in sorted(members.keys() - answered):
        for client in members[first]:
            yield Failure(client, late if first in sent else absent(client))
