"""Implements Flower's Grid over Ray actors of our own.

Messages go to idle workers in the order given, many short ones in one call; replies come as they arrive. A worker
that dies is replaced and its messages are run again, which is safe because no result depends on the worker. A worker
that takes too long is ended and replaced. What messages have in common is put into Ray's store once.

Some messages have a place: those of sites that lie on nodes of the cluster, and those of secure sums, whose secrets
stay in the worker that drew them.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Self

import ray
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from ray.exceptions import RayError, RayTaskError

from fcil.exchange.flower.internals import CRASHED, LATE, RAISED, Run, empty_run, error_reply, identify
from fcil.exchange.flower.messages import SECURE
from fcil.exchange.flower.ray_calls import Call, Letter, letters, portion
from fcil.exchange.flower.ray_cluster import Cluster, short
from fcil.exchange.flower.ray_workers import START_SECONDS, Workers

__all__ = ["RayGrid"]

APP = "fcil.exchange.flower.handlers:app"


class RayGrid(Grid):
    """A grid whose workers stay up, with backbone and data resident, until `close`; any of them serves any client.

    With `sites` client k is served by worker k alone, on the node of the cluster that holds its images.
    """

    def __init__(
        self,
        clients: int,
        *,
        workers: int = 0,
        threads: int = 1,
        gpus: float = 0.0,
        address: str = "",
        app: str = APP,
        retries: int = 2,
        mixed: bool = False,
        sites: bool = False,
    ) -> None:
        """Start Ray, if no cluster is named, and the worker actors on it.

        Args:
            clients: nodes of the grid: client k is node k + 1.
            workers: processes; 0 for as many as fit, at most one per client.
            threads: CPUs of each, and the threads of its arithmetic.
            gpus: GPUs of each, possibly a share of one.
            address: a Ray cluster to join; empty starts one on this machine.
            app: the ClientApp to run, `module:attribute`.
            retries: how often a message is run again when its worker dies.
            mixed: admit workers on unlike processors.
            sites: clients are sites on nodes of the cluster (`ray_sites`), and each has a worker of its own.

        Raises:
            ConfigError: the cluster has no room for the workers, or does not answer.
        """
        identify()
        self.clients, self.retries, self.pinned = clients, retries, sites
        self._workers = Workers(Cluster(workers, threads, gpus, address, clients, sites), app, retries, mixed, sites)
        self._homes: dict[int, int] = {}
        """Node -> number of the worker that has its client's secrets."""
        self._busy: dict[Any, Call] = {}
        self._seconds = float("inf")  # what a message of this phase took, as far as is known

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        return len(self._workers.numbers)

    def pids(self) -> list[int]:
        """Process ids of the workers, once all are up."""
        return self._workers.pids()

    def settle(self, nodes: Iterable[int]) -> None:
        """Give nodes a worker each, out of those that are up, which alone takes their messages of secure sums."""
        up = self._workers.settled()
        self._homes = {node: up[i % len(up)] for i, node in enumerate(nodes)}

    def _worker_number(self, message: Message) -> int | None:
        """The number of the worker that alone may take a message, or None."""
        node = message.metadata.dst_node_id
        if self.pinned:
            return node - 1
        return self._homes.get(node) if message.metadata.message_type == SECURE else None

    # ---- messages ----------------------------------------------------------------------------------------------------

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield one reply per message, as they arrive; `timeout` is in seconds and for each message from its start."""
        waiting, arrived = letters(list(messages), self._worker_number), list[Message]()
        self._seconds = float("inf")
        try:
            while waiting or self._busy or arrived:
                while self._dispatch(waiting, timeout):
                    pass
                yield from arrived  # the workers go on while the caller looks at them
                arrived = [*self._collect(waiting), *self._expire(waiting, timeout)] if waiting or self._busy else []
        finally:  # the caller may stop listening on the way
            for call in self._busy.values():
                self._workers.replace(call.worker)
            self._busy.clear()

    def _next(self, waiting: deque[Letter]) -> tuple[list[Letter], Any] | None:
        """Take messages for a call, and the idle worker for it; None where nobody is idle who may take any."""
        if waiting and waiting[0].worker_number is None:
            worker = self._workers.take(None)
            return (portion(waiting, self.workers, self._seconds), worker) if worker else None
        for place, letter in enumerate(waiting):
            if worker := self._workers.take(letter.worker_number):
                del waiting[place]
                return [letter], worker
        return None

    def _dispatch(self, waiting: deque[Letter], timeout: float | None) -> bool:
        """Give an idle worker its next call, if there is one; with several messages it has the time of one."""
        if (taken := self._next(waiting)) is None:
            return False
        now = time.monotonic()
        call = Call(*taken, now)
        call.deadline = now + timeout if timeout is not None else float("inf")
        self._busy[call.worker.handle.remote(*call.content())] = call
        return True

    def _collect(self, waiting: deque[Letter]) -> Iterator[Message]:
        """Wait until a call or a start has ended; yield the replies."""
        starting = self._workers.starting
        refs = [*self._busy, *starting]
        # a start may be overdue for as long as others work, as where its machine is gone: it must not keep this awake
        wanted = {letter.worker_number for letter in waiting or () if letter.worker_number is not None}
        placed = [d for worker, d in starting.values() if wanted and self._workers.numbers[worker] in wanted]
        busy = [c.deadline for c in self._busy.values()]
        nearest = min([*busy, *placed] or [d for _, d in starting.values()])
        patience = None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
        if ray.wait(refs, timeout=patience)[0]:
            for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
                if ref in starting:
                    self._workers.started(ref)
                else:
                    yield from self._finish(ref, waiting)

    def _finish(self, ref: Any, waiting: deque[Letter]) -> Iterator[Message]:
        """Yield a call's replies; or run its messages again, or yield error replies."""
        call = self._busy.pop(ref)
        try:
            replies: list[Message] = ray.get(ref)
        except RayTaskError as error:  # the app returned what cannot travel
            self._workers.idle.append(call.worker)
            yield from self._failed(call, waiting, RAISED, short(error))
        except RayError as error:
            self._workers.replace(call.worker)
            yield from self._failed(call, waiting, CRASHED, short(error))
        else:
            self._workers.idle.append(call.worker)
            self._seconds = (time.monotonic() - call.start) / len(replies)
            yield from replies

    def _expire(self, waiting: deque[Letter], timeout: float | None) -> Iterator[Message]:
        """End and replace workers that are past their deadline."""
        now = time.monotonic()
        for ref, call in list(self._busy.items()):
            if call.deadline <= now:
                del self._busy[ref]
                self._workers.replace(call.worker)
                yield from self._failed(call, waiting, LATE, f"took longer than {timeout:g} seconds and was ended")
        places = self._workers.overdue()
        if not places:
            return
        stuck = [letter for letter in waiting if letter.worker_number in places]
        for letter in stuck:
            yield error_reply(letter.message, LATE, f"no worker came up at its place within {START_SECONDS:g} seconds")
        rest = [letter for letter in waiting if letter.worker_number not in places]
        waiting.clear()
        waiting.extend(rest)
        if waiting and not self._workers.idle and not self._busy:
            self._workers.never_started()

    def _failed(self, call: Call, waiting: deque[Letter], code: int, reason: str) -> Iterator[Message]:
        """Yield an error reply; or queue the messages again, each by itself.

        They are queued again when a worker died, and when one of several messages is to blame but nobody knows which.
        """
        alone = len(call.letters) == 1
        first = call.letters[0]
        if alone and code == CRASHED:
            first.attempts += 1
            reason = f"its worker died {first.attempts} times, last of {reason}"
        # another worker has no secrets to go on with
        last = first.attempts > self.retries or first.message.metadata.message_type == SECURE
        if alone and (code != CRASHED or last):
            yield error_reply(first.message, code, reason)
            return
        for letter in reversed(call.letters):
            letter.alone = True
            waiting.appendleft(letter)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return all replies, in the order of their arrival."""
        return list(self.stream(messages, timeout=timeout))

    # ---- the rest of Flower's interface ------------------------------------------------------------------------------

    def get_node_ids(self) -> Iterable[int]:
        """The ids of the nodes, one per client."""
        return range(1, self.clients + 1)

    @property
    def run(self) -> Run:
        """An empty run: this grid belongs to no SuperLink."""
        return empty_run()

    def set_run(self, run: Run) -> None:
        """Ignore the run: nothing here depends on it."""

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message (Flower's own deprecated way)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Raise NotImplementedError: work goes to a worker when it is idle, so somebody has to listen."""
        raise NotImplementedError("RayGrid sends and listens at once: use stream or send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Raise NotImplementedError, as `push_messages`."""
        raise NotImplementedError("RayGrid sends and listens at once: use stream or send_and_receive")

    def close(self) -> None:
        """End the workers' processes, and Ray where it was started here."""
        self._busy.clear()  # a listener that gave up may still hold `stream`, which would replace these
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
