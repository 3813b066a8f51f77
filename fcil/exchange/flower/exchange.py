"""Carries requests over any Flower grid: our Ray actors, Flower's simulation, SuperNodes behind a SuperLink."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

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
from fcil.exchange.flower.waiting import Waiting
from fcil.exchange.introduction import Introduction, introduce
from fcil.exchange.sites import with_classes
from fcil.exchange.worker import Worker
from fcil.method import ClientUpdate, Task
from fcil.server.loop import Request
from fcil.server.replies import Failure, Reply
from fcil.server.validation import refusal

__all__ = ["FlowerExchange", "SIMULATION", "STORE", "Streaming", "ray_exchange", "settled"]

STORE = "clients"
"""Name of the folder of a run in which clients keep arrays of their own."""
SIMULATION = "InMemoryGrid"
"""Class of the grid in Flower's simulation, whose nodes are processes of this machine."""
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


def _correct(reply: Message, task: Task, places: int, site: int | None) -> np.ndarray | str:
    """Read numbers of correct answers, or the reason why there are none; a site may only tell its own."""
    if reply.has_error():
        return _reason(reply)
    try:
        correct = messages.read_correct(reply.content, task, places)
    except ValueError as error:
        return str(error)
    if site is not None and correct.sum() != correct[site].sum():
        return "it tells correct answers of other sites"
    return correct


class FlowerExchange:
    """Carries the loop's requests over a grid: implements `fcil.server.loop.Exchange`."""

    def __init__(self, grid: Grid, config: Config, *, store: str = "", node_seconds: float = 120.0) -> None:
        """Find the nodes of all clients, and compare what they have with what this process has.

        Args:
            grid: our `RayGrid`, or one of Flower's.
            config: the settings of the run.
            store: folder of the clients' own arrays, where nodes share the server's disk; else empty.
            node_seconds: seconds within which every client must have a node, on a grid that is not ours.

        Raises:
            ConfigError: clients without a node, or with one that has other code, settings, weights or data.
        """
        identify()
        self.grid, self.config = grid, resolved(config)
        self.job = messages.Job.of(self.config, store)
        self.local = Worker.of(self.config)
        """This process's own worker, which evaluates where nodes may lack test data."""
        if config.run.aggregate_on_worker and not isinstance(grid, Streaming):
            raise ConfigError(
                "run.aggregate_on_worker: every node of this grid works for one client, so there is nothing to sum; "
                'set it to false, or use run.exchange = "ray" or "inline"'
            )
        self.nodes: Nodes | None = None
        if not isinstance(grid, Streaming):
            self.nodes = Nodes(grid, config.partition.clients, self.job, introduce(self.local), node_seconds)
            self._name_classes(self.nodes)
            self.waiting = Waiting(self.nodes, config.run.wait_for_clients)

    def _name_classes(self, nodes: Nodes) -> None:
        """Let the settings that nodes work by name the classes of all sites, which their labels are numbers of."""
        named = with_classes(self.config, nodes.first)
        if named == self.config:
            return
        self.config, self.job = named, messages.Job.of(named, self.job.store)
        self.local = Worker.of(named)
        nodes.job, nodes.server = self.job, introduce(self.local)

    @property
    def introductions(self) -> dict[int, Introduction]:
        """Client -> what its node told of itself; empty where all processes are ours."""
        return dict(self.nodes.first) if self.nodes else {}

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
        yield from self._ask(request, contents) if self.nodes is None else self._ask_nodes(request, contents)

    def _ask(self, request: Request, contents: dict[int, RecordDict]) -> Iterator[Reply]:
        sent = self.address(contents, messages.message_type(request.phase), str(request.phase.index))
        seconds = self.config.run.client_timeout * max(map(len, request.groups), default=1)
        late = f"no reply within {seconds:g} seconds (run.client_timeout)"
        absent = self.nodes.why_missing if self.nodes else str
        yield from settled(sent, replies(self.grid, list(sent.values()), seconds), request, late, absent)

    def _ask_nodes(self, request: Request, contents: dict[int, RecordDict]) -> Iterator[Reply]:
        """Ask nodes; and again those without an update, while too few are good and `run.wait_for_clients` lasts."""
        assert self.nodes is not None
        target, needed = request.expected, min(self.config.run.min_clients, len(contents))
        good: set[int] = set()
        self.waiting.begin()
        self.waiting.for_all(contents)
        while contents:
            lost: dict[int, Failure] = {}
            asked = replace(request, num_examples={c: request.num_examples[c] for c in contents})
            for reply in self._ask(asked, contents):
                if isinstance(reply, Failure) and not reply.traceback:
                    self.nodes.doubt(reply.client)
                    if self.waiting.seconds and reply.client not in good:
                        lost[reply.client] = reply
                        continue
                elif isinstance(reply, ClientUpdate) and refusal(reply, target, good) is None:
                    good.add(reply.client)
                yield reply
            if len(good) >= needed or not lost or not self.waiting.for_any(lost):
                yield from lost.values()
                return
            contents = {client: content for client, content in contents.items() if client in lost}

    def evaluate(self, arrays: Arrays, task: Task) -> np.ndarray:
        """Evaluate in shards on our workers, at the sites, or in this process where nodes may lack test data."""
        if isinstance(self.grid, Streaming):
            contents = dict(enumerate(messages.evaluate_contents(arrays, task, self.grid.workers, self.job)))
            return self._evaluated(contents, task, lambda missing: {shard: shard + 1 for shard in missing}, "share")
        if self.nodes is not None and self.config.sites_evaluate:
            (content,) = messages.evaluate_contents(arrays, task, 1, self.job)
            sites = dict.fromkeys(range(self.config.partition.clients), content)
            self.waiting.begin()
            return self._evaluated(sites, task, self._connected, "site")
        return self.local.evaluate(arrays, task)

    def _connected(self, clients: Iterable[int]) -> dict[int, int]:
        assert self.nodes is not None
        wanted = list(clients)
        self.waiting.for_all(wanted)
        nodes = self.nodes.current()
        return {client: nodes[client] for client in wanted if client in nodes}

    def _evaluated(
        self,
        contents: Mapping[int, RecordDict],
        task: Task,
        address: Callable[[Iterable[int]], dict[int, int]],
        whose: Literal["share", "site"],
    ) -> np.ndarray:
        """Add up correct answers, (places, tasks seen); who fails is asked once more.

        Args:
            contents: number of a share of the batches, or of a site -> the message to who evaluates it.
            address: the numbers still missing -> the node to ask for each.
        """
        places = self.config.partition.clients if self.config.sites_evaluate else 1
        total, reasons = np.zeros((places, task.index + 1), np.int64), dict.fromkeys(contents, "not connected")
        for _ in range(2):
            sent = {k: Message(contents[k], node, messages.EVALUATE) for k, node in address(sorted(reasons)).items()}
            reasons |= dict.fromkeys(sent, f"no reply within {self.config.run.client_timeout:g} seconds")
            for reply in replies(self.grid, list(sent.values()), self.config.run.client_timeout):
                k = next(k for k, m in sent.items() if m.metadata.message_id == reply.metadata.reply_to_message_id)
                correct = _correct(reply, task, places, k if whose == "site" else None)
                if isinstance(correct, str):
                    reasons[k] = correct
                elif k in reasons:
                    del reasons[k]
                    total += correct
        if reasons:
            number, reason = min(reasons.items())
            raise RunError(
                f"task {task.index + 1}: {len(reasons)} of {len(contents)} {whose}s of the evaluation failed twice, "
                f"{whose} {number}: {reason}; mend the cause (run.client_timeout holds for evaluation too) and go on "
                "with `fcil resume`"
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
        address=run.ray_address, mixed=run.mixed_processors,
    )  # fmt: skip
    return FlowerExchange(grid, config, store=str((run_folder / STORE).resolve()) if run_folder else "")
