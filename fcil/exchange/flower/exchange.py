"""Carries requests over any Flower grid: our Ray actors, Flower's simulation, SuperNodes behind a SuperLink."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fcil.arrays import Arrays
from fcil.config import Config
from fcil.errors import ConfigError, RunError
from fcil.exchange.device import resolved
from fcil.exchange.flower import messages
from fcil.exchange.flower.internals import identify
from fcil.exchange.flower.nodes import Nodes
from fcil.exchange.worker import Worker
from fcil.method import Task
from fcil.server.loop import Request
from fcil.server.replies import Failure, Reply

__all__ = ["FlowerExchange", "STORE", "Streaming", "ray_exchange", "settled"]

STORE = "clients"
"""Name of the folder of a run in which clients keep arrays of their own."""
_POLL_SECONDS = 0.1


@runtime_checkable
class Streaming(Protocol):
    """A grid of ours (`RayGrid`): any worker serves any client, and replies are yielded as they arrive."""

    workers: int

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield one reply per message; a late one is an error reply."""

    def close(self) -> None:
        """End the workers' processes."""


def replies(grid: Grid, sent: list[Message], timeout: float) -> Iterator[Message]:
    """Yield replies as they arrive.

    On a grid that is not ours this ends when none has come for `timeout` seconds: its nodes may have to queue for a
    processor, so that a deadline for each message cannot be known here.
    """
    if isinstance(grid, Streaming):
        yield from grid.stream(sent, timeout=timeout)
        return
    waiting = {message_id for message_id in grid.push_messages(sent) if message_id}
    last = time.monotonic()
    while waiting and time.monotonic() - last < timeout:
        arrived = list(grid.pull_messages(waiting))
        for reply in arrived:
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        if arrived:
            last = time.monotonic()
        else:
            time.sleep(_POLL_SECONDS)


def _reason(reply: Message) -> str:
    """The last line of an error reply that is not empty: Flower's simulation sends whole tracebacks."""
    lines = [line.strip() for line in (reply.error.reason or "").splitlines() if line.strip()]
    return lines[-1][:500] if lines else f"error {reply.error.code} without a reason"


def settle(reply: Message, client: int) -> Reply:
    """Turn a client's reply into an update or a failure; the message that it answers says whose it must be."""
    if reply.has_error():
        return Failure(client, _reason(reply))
    try:
        answer = messages.read_reply(reply.content)
    except ValueError as error:
        return Failure(client, f"malformed reply: {error}")
    if answer.client != client:
        return Failure(client, f"its reply claims to be from client {answer.client}")
    return answer


def settle_group(reply: Message, group: Sequence[int]) -> Iterator[Reply]:
    """Turn the reply for a group into its sums, or into a failure for each of its clients."""
    if reply.has_error():
        yield from (Failure(client, _reason(reply)) for client in group)
        return
    try:
        partial = messages.read_partial(reply.content)
    except ValueError as error:
        yield from (Failure(client, f"malformed reply: {error}") for client in group)
        return
    clients = sorted([m.client for m in partial.members] + [f.client for f in partial.failures])
    if clients != sorted(group):
        yield from (Failure(client, f"its group's reply is about clients {clients[:5]}") for client in group)
        return
    yield partial


def settled(sent: Mapping[int, Message], arriving: Iterable[Message], request: Request, late: str) -> Iterator[Reply]:
    """Turn the replies to a phase into updates, sums and failures, in their order; then a failure per missing client.

    Args:
        sent: client, or a group's first -> the message to it.
        late: the reason for a client that had a message and did not answer.
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
            yield Failure(client, late if first in sent else "its node is not connected")


class FlowerExchange:
    """Carries the loop's requests over a grid: implements `fcil.server.loop.Exchange`."""

    def __init__(self, grid: Grid, config: Config, *, store: str = "", node_seconds: float = 120.0) -> None:
        """Find the nodes of all clients.

        Args:
            grid: our `RayGrid`, or one of Flower's.
            config: the settings of the run.
            store: folder of the clients' own arrays, where nodes share the server's disk; else empty.
            node_seconds: seconds within which every client must have a node, on a grid that is not ours.

        Raises:
            ConfigError: clients without a node.
        """
        identify()
        self.grid, self.config = grid, resolved(config)
        self.job = messages.Job.of(self.config, store)
        self._local: Worker | None = None
        clients = config.partition.clients
        if config.run.secure_sums:
            raise ConfigError('run.secure_sums: is simulated in one process so far (`run.exchange = "inline"`)')
        if config.run.aggregate_on_worker and not isinstance(grid, Streaming):
            raise ConfigError(
                "run.aggregate_on_worker: every node of this grid works for one client, so there is nothing to sum; "
                'set it to false, or use run.exchange = "ray" or "inline"'
            )
        self.nodes = None if isinstance(grid, Streaming) else Nodes(grid, clients, node_seconds)

    def address(self, contents: dict[int, RecordDict], kind: str, group: str) -> dict[int, Message]:
        """Client -> the message to its node; clients whose node is not connected have none."""
        nodes = self.nodes.current() if self.nodes else {client: client + 1 for client in contents}
        return {
            client: Message(content, nodes[client], kind, group_id=group)
            for client, content in contents.items()
            if client in nodes
        }

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Send the longest client's message first; yield replies as they arrive, and then a failure per missing one."""
        contents = messages.request_contents(request, self.job)
        sent = self.address(contents, messages.message_type(request.phase), str(request.phase.index))
        seconds = self.config.run.client_timeout * max(map(len, request.groups), default=1)
        arriving = replies(self.grid, list(sent.values()), seconds)
        late = f"no reply within {seconds:g} seconds (run.client_timeout)"
        yield from settled(sent, arriving, request, late)

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Evaluate in shards on our workers, or in this process on a grid whose nodes may lack test data."""
        if isinstance(self.grid, Streaming):
            return self._evaluate_in_shards(arrays, task, self.grid.workers)
        self._local = self._local or Worker.of(self.config)
        return self._local.evaluate(arrays, task)

    def _evaluate_in_shards(self, arrays: Arrays, task: Task, shards: int) -> np.ndarray:
        contents = dict(enumerate(messages.evaluate_contents(arrays, task, shards, self.job)))
        total, missing, reason = np.zeros(task.index + 1, np.int64), set(contents), ""
        for _ in range(2):
            sent = {s: Message(contents[s], s + 1, messages.EVALUATE) for s in sorted(missing)}
            for reply in replies(self.grid, list(sent.values()), self.config.run.client_timeout):
                shard = next(s for s, m in sent.items() if m.metadata.message_id == reply.metadata.reply_to_message_id)
                try:
                    correct = None if reply.has_error() else messages.read_correct(reply.content, task)
                    reason = _reason(reply) if correct is None else reason
                except ValueError as error:
                    correct, reason = None, str(error)
                if correct is not None and shard in missing:
                    missing.discard(shard)
                    total += correct
        if missing:
            raise RunError(
                f"task {task.index + 1}: {len(missing)} of {shards} shares of the evaluation failed twice: {reason}; "
                "mend the cause (run.client_timeout holds for evaluation too) and go on with `fcil resume`"
            )
        return total

    def close(self) -> None:
        """End the workers' processes, where they are ours."""
        if isinstance(self.grid, Streaming):
            self.grid.close()


def ray_exchange(config: Config, run_folder: Path | None = None) -> FlowerExchange:
    """Make the exchange for `run.exchange = "ray"`; close it when the run ends, also when it fails.

    Args:
        run_folder: the run's folder, in whose `clients/` clients keep their own arrays; on a cluster of several
            machines it must be on a disk that all of them see.

    Raises:
        ConfigError: Ray has no room for the workers, or does not answer.
    """
    from fcil.exchange.flower.ray_grid import RayGrid  # Ray is not needed behind a SuperLink

    run = config.run
    if run.device.startswith("cuda") and not run.gpus_per_client:
        raise ConfigError(
            f'run.device = "{run.device}": Ray hides GPUs from workers that ask for none; set run.gpus_per_client, '
            "for example 0.5 for two workers on one GPU"
        )
    if run.device.startswith("cuda:"):
        raise ConfigError(f'run.device = "{run.device}": Ray picks the GPU of each worker; write "cuda"')
    grid = RayGrid(
        config.partition.clients, workers=run.workers, threads=run.threads, gpus=run.gpus_per_client,
        address=run.ray_address,
    )  # fmt: skip
    return FlowerExchange(grid, config, store=str((run_folder / STORE).resolve()) if run_folder else "")
