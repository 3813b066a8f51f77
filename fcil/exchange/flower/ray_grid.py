"""Implements Flower's Grid over Ray actors of our own.

Messages go to idle workers in the order given, many short ones in one call; replies come as they arrive. A worker
that dies is replaced and its messages are run again, which is safe because no result depends on the worker. A worker
that takes too long is ended and replaced. What messages have in common is put into Ray's store once.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, Self

import ray
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from ray.exceptions import RayError, RayTaskError

from fcil.errors import RunError
from fcil.exchange.flower.internals import CRASHED, LATE, RAISED, Run, empty_run, error_reply, identify
from fcil.exchange.flower.ray_calls import Call, Letter, letters, portion
from fcil.exchange.flower.ray_cluster import Cluster

__all__ = ["RayGrid"]

APP = "fcil.exchange.flower.handlers:app"
START_SECONDS = 300.0
"""Seconds within which a worker must be up: it imports torch, perhaps from a slow disk."""


def _short(error: BaseException) -> str:
    """The last line of one of Ray's long messages that is not empty, without the addresses of its processes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300] if lines else ''}"


class RayGrid(Grid):
    """A grid whose workers stay up, with backbone and data resident, until `close`; any of them serves any client."""

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

        Raises:
            ConfigError: the cluster has no room for the workers, or does not answer.
        """
        identify()
        self.clients, self.app, self.retries = clients, app, retries
        self._cluster = Cluster(workers, threads, gpus, address, clients)
        self.workers = self._cluster.workers
        self._idle: list[Any] = []
        self._starting: dict[Any, tuple[Any, float]] = {}
        self._busy: dict[Any, Call] = {}
        self._seconds = float("inf")  # what a message of this phase took, as far as is known
        self._pids: dict[Any, int] = {}
        self._mixed, self._kinds = mixed, dict[str, str]()
        self._failed_starts = 0
        for _ in range(self.workers):
            self._start()

    # ---- workers -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        worker = self._cluster.actor(self.app)
        self._starting[worker.about.remote()] = worker, time.monotonic() + START_SECONDS

    def _started(self, ref: Any) -> None:
        worker, _ = self._starting.pop(ref)
        try:
            self._pids[worker], machine, kind = ray.get(ref)
            self._compare(machine, kind)
            self._idle.append(worker)
            self._failed_starts = 0
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts > self.retries:
                raise RunError(f"{self._failed_starts} Ray workers in a row died while they started: {error}") from None
            self._start()

    def _compare(self, machine: str, kind: str) -> None:
        """Refuse a worker on another kind of processor than the others': bits would depend on who works for whom."""
        self._kinds.setdefault(kind, machine)
        if len(self._kinds) > 1 and not self._mixed:
            kinds = "; ".join(f"{host}: {name}" for name, host in self._kinds.items())
            raise RunError(
                f"the Ray workers have unlike processors ({kinds}), so that last bits would depend on which worker has "
                "which client; use machines of one kind, or set run.mixed_processors=true"
            )

    def _replace(self, worker: Any) -> None:
        self._pids.pop(worker, None)
        ray.kill(worker, no_restart=True)
        self._start()

    def pids(self) -> list[int]:
        """Process ids of the workers, once all are up."""
        while self._starting:
            ready, _ = ray.wait([*self._starting], timeout=START_SECONDS)
            if not ready:
                self._never_started()
            self._started(ready[0])
        return sorted(self._pids.values())

    def _never_started(self) -> NoReturn:
        raise RunError(
            f"no Ray worker came up within {START_SECONDS:g} seconds: others use the cluster, or its nodes "
            "lack fcil; see the logs of Ray, and lower run.workers"
        )

    # ---- messages ----------------------------------------------------------------------------------------------------

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield one reply per message, as they arrive; `timeout` is in seconds and for each message from its start."""
        waiting, arrived, self._seconds = letters(list(messages)), list[Message](), float("inf")
        try:
            while waiting or self._busy or arrived:
                while waiting and self._idle:
                    self._dispatch(waiting, timeout)
                yield from arrived  # the workers go on while the caller looks at them
                arrived = [*self._collect(waiting), *self._expire(waiting, timeout)] if waiting or self._busy else []
        finally:  # the caller may stop listening on the way
            for call in self._busy.values():
                self._replace(call.worker)
            self._busy.clear()

    def _dispatch(self, waiting: deque[Letter], timeout: float | None) -> None:
        """Give an idle worker its next call; one with several messages has no more time than each of them."""
        now = time.monotonic()
        call = Call(portion(waiting, self.workers, self._seconds), self._idle.pop(0), now)
        call.deadline = now + timeout if timeout is not None else float("inf")
        self._busy[call.worker.handle.remote(*call.content())] = call

    def _collect(self, waiting: deque[Letter]) -> Iterator[Message]:
        """Wait until a call or a start has ended; yield the replies."""
        refs = [*self._busy, *self._starting]
        # a start may be overdue for as long as others work, as where its machine is gone: it must not keep this awake
        nearest = min([c.deadline for c in self._busy.values()] or [d for _, d in self._starting.values()])
        patience = None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
        if ray.wait(refs, timeout=patience)[0]:
            for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
                if ref in self._starting:
                    self._started(ref)
                else:
                    yield from self._finish(ref, waiting)

    def _finish(self, ref: Any, waiting: deque[Letter]) -> Iterator[Message]:
        """Yield a call's replies; or run its messages again, or yield error replies."""
        call = self._busy.pop(ref)
        try:
            replies: list[Message] = ray.get(ref)
        except RayTaskError as error:  # the app returned what cannot travel
            self._idle.append(call.worker)
            yield from self._failed(call, waiting, RAISED, _short(error))
        except RayError as error:
            self._replace(call.worker)
            yield from self._failed(call, waiting, CRASHED, _short(error))
        else:
            self._idle.append(call.worker)
            self._seconds = (time.monotonic() - call.start) / len(replies)
            yield from replies

    def _expire(self, waiting: deque[Letter], timeout: float | None) -> Iterator[Message]:
        """End and replace workers that are past their deadline."""
        now = time.monotonic()
        for ref, call in list(self._busy.items()):
            if call.deadline <= now:
                del self._busy[ref]
                self._replace(call.worker)
                yield from self._failed(call, waiting, LATE, f"took longer than {timeout:g} seconds and was ended")
        if any(deadline <= now for _, deadline in self._starting.values()) and not self._idle and not self._busy:
            self._never_started()

    def _failed(self, call: Call, waiting: deque[Letter], code: int, reason: str) -> Iterator[Message]:
        """Yield an error reply; or queue the messages again, each by itself.

        They are queued again when a worker died, and when one of several messages is to blame but nobody knows which.
        """
        alone = len(call.letters) == 1
        first = call.letters[0]
        if alone and code == CRASHED:
            first.attempts += 1
            reason = f"its worker died {first.attempts} times, last of {reason}"
        if alone and (code != CRASHED or first.attempts > self.retries):
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
        if ray.is_initialized():
            for worker in [*self._pids, *(worker for worker, _ in self._starting.values())]:
                ray.kill(worker, no_restart=True)
        self._pids.clear()
        self._starting.clear()
        self._idle.clear()
        self._busy.clear()  # a listener that gave up may still hold `stream`, which would replace these
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
