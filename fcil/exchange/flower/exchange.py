"""Carries requests over any Flower grid: our Ray actors, Flower's simulation, SuperNodes behind a SuperLink."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fcil.arrays import Arrays
from fcil.config import Config
from fcil.errors import ConfigError
from fcil.exchange.device import check_gpu_on_ray, resolved
from fcil.exchange.flower import messages
from fcil.exchange.flower.evaluation import evaluated
from fcil.exchange.flower.internals import identify
from fcil.exchange.flower.nodes import HELLO_SECONDS, Nodes
from fcil.exchange.flower.secure_grid import over_grid
from fcil.exchange.flower.settling import SIMULATION, Settling, Streaming, replies, settled
from fcil.exchange.flower.waiting import Waiting
from fcil.exchange.introduction import Introduction, introduce
from fcil.exchange.shared import Shared
from fcil.exchange.sites import with_classes
from fcil.exchange.worker import Worker
from fcil.method import ClientUpdate, Task
from fcil.server.loop import Request
from fcil.server.replies import Failure, Reply
from fcil.server.validation import refusal

__all__ = ["FlowerExchange", "STORE", "WORKERS", "ray_exchange"]

WORKERS = "workers"
"""Kind of the Ray workers among what runs share."""
STORE = "clients"
"""Name of the folder of a run in which clients keep arrays of their own."""


class FlowerExchange:
    """Carries the loop's requests over a grid: implements `fcil.server.loop.Exchange`."""

    def __init__(
        self, grid: Grid, config: Config, *, store: str = "", node_seconds: float = 120.0, shared: Shared | None = None
    ) -> None:
        """Find the nodes of all clients, and compare what they have with what this process has.

        Args:
            grid: our `RayGrid`, or one of Flower's.
            config: the settings of the run.
            store: folder of the clients' own arrays, where nodes share the server's disk; else empty.
            node_seconds: seconds within which every client must have a node, on a grid that is not ours.
            shared: what the runs of this process share: its memo, and this grid, which then outlives the exchange.

        Raises:
            ConfigError: clients without a node, or with one that has other code, settings, weights or data.
        """
        identify()
        self.grid, self.config = grid, resolved(config)
        self.shared = shared
        self.job = messages.Job.of(self.config, store, shared.written() if shared else "")
        self.local = Worker.of(self.config)
        """This process's own worker, which evaluates where nodes may lack test data."""
        if type(grid).__name__ == SIMULATION:
            _check_simulated(config)
        self.anywhere = isinstance(grid, Streaming) and not grid.pinned
        """Whether any process of the grid may work for any client."""
        if config.run.aggregate_on_worker and not self.anywhere:
            raise ConfigError(
                "run.aggregate_on_worker: every node of this grid works for one client, so there is nothing to sum; "
                'set it to false, or use run.exchange = "ray" or "inline"'
            )
        self.nodes: Nodes | None = None
        if not self.anywhere:
            ours = isinstance(grid, Streaming)
            self.nodes = Nodes(
                grid,
                config.partition.clients,
                self.job,
                introduce(self.local),
                node_seconds,
                config.run.introduction_timeout,
                hello_seconds=config.run.introduction_timeout if ours else HELLO_SECONDS,
            )
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
            client: Message(self._with_identity(content, client), nodes[client], kind, group_id=group)
            for client, content in contents.items()
            if client in nodes
        }

    def _with_identity(self, content: RecordDict, client: int) -> RecordDict:
        """Say what a node must have; workers of ours have what this process has."""
        return messages.with_identity(content, self.nodes.identity(client)) if self.nodes else content

    def __call__(self, request: Request) -> Iterator[Reply]:
        """Send the longest client's message first; yield replies as they arrive, and then a failure per missing one."""
        if request.secure:
            if self.nodes is not None:
                self.waiting.begin()
                self.waiting.for_all(request.num_examples)
            yield over_grid(self, request)
            return
        contents = messages.request_contents(request, self.job)
        yield from self._ask(request, contents) if self.nodes is None else self._ask_nodes(request, contents)

    def _ask(self, request: Request, contents: dict[int, RecordDict]) -> Iterator[Reply]:
        sent = self.address(contents, messages.message_type(request.phase), str(request.phase.index))
        seconds = self.config.run.client_timeout * max(map(len, request.groups), default=1)
        late = f"no reply within {seconds:g} seconds (run.client_timeout)"
        yield from settled(sent, replies(self.grid, list(sent.values()), seconds), request, late, self.why_missing)

    def settle(self, clients: Iterable[int]) -> None:
        """Give clients a worker each that keeps their secrets, where any could work for them."""
        if self.anywhere and isinstance(self.grid, Settling):
            self.grid.settle([client + 1 for client in clients])

    def why_missing(self, client: int) -> str:
        """Say why a client has no node; workers of ours are there for all."""
        return self.nodes.why_missing(client) if self.nodes else str(client)

    def returned(self, lost: Iterable[int], wait: bool) -> bool:
        """Doubt the nodes of clients that were lost; wait, if asked, until one is there, and tell whether one is."""
        clients = list(lost)
        if self.nodes is None:
            return False
        for client in clients:
            self.nodes.doubt(client)
        return wait and self.waiting.for_any(clients)

    def _ask_nodes(self, request: Request, contents: dict[int, RecordDict]) -> Iterator[Reply]:
        """Ask nodes; and again those without an update, while too few are good and `run.wait_for_clients` lasts."""
        assert self.nodes is not None
        target, needed = request.expected, min(self.config.run.min_clients, len(contents))
        good: set[int] = set()
        self.waiting.begin()
        self.waiting.for_all(contents)
        while contents:
            lost: dict[int, Failure] = {}
            part = replace(request, num_examples={c: request.num_examples[c] for c in contents})
            for reply in self._ask(part, contents):
                if isinstance(reply, Failure) and not reply.raised:
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
        places = self.config.partition.clients if self.config.sites_evaluate else 1
        groups = task.seen if self.config.answers_by_class else task.index + 1
        late = self.config.run.client_timeout
        if self.anywhere:
            assert isinstance(self.grid, Streaming)
            contents = dict(enumerate(messages.evaluate_contents(arrays, task, self.grid.workers, self.job)))
            workers = {shard: shard + 1 for shard in contents}
            return evaluated(
                self.grid, contents, task, lambda shards: {k: workers[k] for k in shards}, "share", places, groups,
                late, self.why_missing,
            )  # fmt: skip
        if self.nodes is not None and self.config.sites_evaluate:
            (content,) = messages.evaluate_contents(arrays, task, 1, self.job)
            sites = {k: self._with_identity(content, k) for k in range(self.config.partition.clients)}
            self.waiting.begin()
            return evaluated(self.grid, sites, task, self._connected, "site", places, groups, late, self.why_missing)
        return self.local.evaluate(arrays, task)

    def scores(self, arrays: Arrays, images: np.ndarray) -> np.ndarray:
        """Score the server's images in this process, which alone may see them; see `Worker.scores`."""
        return self.local.scores(arrays, images)

    def _connected(self, clients: Iterable[int]) -> dict[int, int]:
        assert self.nodes is not None
        wanted = list(clients)
        self.waiting.for_all(wanted)
        nodes = self.nodes.current()
        return {client: nodes[client] for client in wanted if client in nodes}

    def close(self) -> None:
        """End the workers' processes, where they are ours."""
        if isinstance(self.grid, Streaming) and self.shared is None:
            self.grid.close()


def _check_simulated(config: Config) -> None:
    """Raise ConfigError for settings that Flower's own simulation of nodes cannot carry out."""
    if config.run.secure_sums:
        raise ConfigError(
            "run.secure_sums: in Flower's simulation any process may work for any client, so that none could keep "
            'its secrets between two messages; simulate with run.exchange = "inline" or "ray": the same bits'
        )
    if config.partition.kind == "sites" and "" in (config.data.sites or ("",)):
        raise ConfigError(
            "data.sites: names no folder for a site, and the nodes of Flower's simulation have no --node-config that "
            "would; name a folder for every site, in the order of their partition-id"
        )


def ray_exchange(config: Config, run_folder: Path | None = None, shared: Shared | None = None) -> FlowerExchange:
    """Make the exchange for `run.exchange = "ray"`; close it when the run ends, also when it fails.

    Args:
        run_folder: the run's folder, in whose `clients/` clients keep their own arrays; on a cluster of several
            machines it must be on a disk that all of them see.
        shared: what the runs of this process share; the workers are kept in it for the next run.

    Raises:
        ConfigError: Ray has no room for the workers, or does not answer; or a site's node does not fit.
    """
    from fcil.exchange.flower.ray_grid import RayGrid  # Ray is not needed behind a SuperLink

    run = config.run
    check_gpu_on_ray(config)
    settings: dict[str, Any] = {
        "workers": run.workers, "threads": run.threads, "gpus": run.gpus_per_client, "address": run.ray_address,
        "mixed": run.mixed_processors, "sites": config.sites_on_ray,
    }  # fmt: skip

    def start() -> RayGrid:
        return RayGrid(config.partition.clients, **settings)

    key = (config.partition.clients, *settings.values())
    grid = shared.keep(WORKERS, key, start, RayGrid.close) if shared else start()
    store = str((run_folder / STORE).resolve()) if run_folder and not config.sites_on_ray else ""
    try:
        return FlowerExchange(grid, config, store=store, shared=shared)
    except BaseException:
        if shared is None:
            grid.close()
        raise
