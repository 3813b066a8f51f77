"""Keeps the Ray actors of a grid up: starts them, replaces those that die, and ends them with their grid."""

import time
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError

from fcil.errors import RunError
from fcil.exchange.flower.ray_cluster import Cluster

__all__ = ["START_SECONDS", "Workers"]

START_SECONDS = 300.0
"""Seconds within which a worker must be up: it imports torch, perhaps from a slow disk."""
SETTLE_SECONDS = 60.0
"""Seconds for which a secure sum waits for further workers where one is up."""


class Workers:
    """The worker actors of a grid, each with a number; one that is replaced leaves its number to the next."""

    def __init__(self, cluster: Cluster, app: str, retries: int, mixed: bool, sites: bool) -> None:
        """Start the workers that a cluster has room for.

        Args:
            app: the ClientApp that they run, `module:attribute`.
            retries: how many of them in a row may die while they start, beside the first.
            mixed: admit workers on unlike processors.
            sites: worker k has its place, the node of the cluster that holds the images of site k.
        """
        self._cluster, self._app, self._retries, self._mixed, self._sites = cluster, app, retries, mixed, sites
        self.numbers: dict[Any, int] = {}
        """Worker -> its number."""
        self.idle: list[Any] = []
        """Workers that are up and have nothing to do, the longest idle first."""
        self.starting: dict[Any, tuple[Any, float]] = {}
        """Reference of a start -> the worker, and the time by which it must be up."""
        self.running: dict[Any, int] = {}
        """Worker that is up -> its process id."""
        self._kinds: dict[str, str] = {}
        self._failed_starts = 0
        for number in range(cluster.workers):
            self._start(number)

    def _start(self, number: int) -> None:
        worker = self._cluster.actor(self._app, number if self._sites else None)
        self.numbers[worker] = number
        self.starting[worker.about.remote()] = worker, time.monotonic() + START_SECONDS

    def started(self, ref: Any) -> None:
        """Admit a worker whose start has ended, or start another in its place if it died.

        Raises:
            RunError: several in a row have died, or its processor is unlike the others'.
        """
        worker, _ = self.starting.pop(ref)
        try:
            self.running[worker], machine, kind = ray.get(ref)
            self.compare(machine, kind)
            self.idle.append(worker)
            self._failed_starts = 0
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                raise RunError(f"{self._failed_starts} Ray workers in a row died while they started: {error}") from None
            self._start(self.numbers.pop(worker))

    def compare(self, machine: str, kind: str) -> None:
        """Refuse a worker on another kind of processor than the others': bits would depend on who works for whom.

        Raises:
            RunError: it has one, and unlike processors are not asked for.
        """
        self._kinds.setdefault(kind, machine)
        if len(self._kinds) > 1 and not self._mixed:
            kinds = "; ".join(f"{host}: {name}" for name, host in self._kinds.items())
            raise RunError(
                f"the Ray workers have unlike processors ({kinds}), so that last bits would depend on which worker has "
                "which client; use machines of one kind, or set run.mixed_processors=true"
            )

    def replace(self, worker: Any) -> None:
        """End a worker, and start another in its place."""
        self.running.pop(worker, None)
        ray.kill(worker, no_restart=True)
        self._start(self.numbers.pop(worker))

    def take(self, number: int | None) -> Any | None:
        """Take the idle worker of a number, or for None the one that is idle longest; None where there is none."""
        worker = next((one for one in self.idle if number is None or self.numbers[one] == number), None)
        if worker is not None:
            self.idle.remove(worker)
        return worker

    def overdue(self) -> set[int]:
        """The numbers of workers that should have been up by now."""
        now = time.monotonic()
        return {self.numbers[worker] for worker, deadline in self.starting.values() if deadline <= now}

    def never_started(self) -> NoReturn:
        """Raise RunError: no worker has come up."""
        raise RunError(
            f"no Ray worker came up within {START_SECONDS:g} seconds: others use the cluster, or its nodes "
            "lack fcil; see the logs of Ray, and lower run.workers"
        )

    def pids(self) -> list[int]:
        """Process ids of the workers, once all are up.

        Raises:
            RunError: one does not come up.
        """
        while self.starting:
            ready, _ = ray.wait([*self.starting], timeout=START_SECONDS)
            if not ready:
                self.never_started()
            self.started(ready[0])
        return sorted(self.running.values())

    def settled(self) -> list[int]:
        """Wait for workers that start, but not for long where one is up; returns the numbers of those that are up.

        Raises:
            RunError: no worker comes up.
        """
        patience = START_SECONDS
        while starting := [ref for ref, (_, deadline) in self.starting.items() if deadline > time.monotonic()]:
            ready, _ = ray.wait(starting, timeout=patience)
            for ref in ready:
                self.started(ref)
            if not ready and self.idle:
                break  # as where the machine of the others is gone
            patience = SETTLE_SECONDS if self.idle else START_SECONDS
        if not self.idle:
            self.never_started()
        return sorted(self.numbers[worker] for worker in self.idle)

    def close(self) -> None:
        """End the workers' processes, and Ray where it was started here."""
        if ray.is_initialized():
            for worker in [*self.running, *(worker for worker, _ in self.starting.values())]:
                ray.kill(worker, no_restart=True)
        self.running.clear()
        self.starting.clear()
        self.idle.clear()
        self._cluster.close()
