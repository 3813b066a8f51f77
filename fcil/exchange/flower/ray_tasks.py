"""Calls functions of ours as Ray tasks, each with its share of CPUs and GPUs.

Only texts go to a task and come back: the name of a function, paths, JSON. So nothing of ours is unpickled anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import RayError

from fcil.exchange.flower.ray_cluster import alive_nodes, connect, environment, quietly, room_for_workers, short

__all__ = ["Ended", "RayTasks"]


@dataclass(frozen=True)
class Ended:
    """A task that has ended: with a text, or with the reason why it has none."""

    key: str
    text: str | None
    reason: str = ""


def call(function: str, texts: list[str]) -> str:
    """Call `module:function` with texts; in a Ray task."""
    module, _, name = function.partition(":")
    answer: str = getattr(import_module(module), name)(*texts)
    return answer


class RayTasks:
    """Tasks on a Ray cluster that is started here, or joined and left as it was; leaving the context ends them."""

    def __init__(self, address: str) -> None:
        """Connect to a cluster, or start one on this machine where no address is given.

        Raises:
            ConfigError: no cluster answers at the address.
        """
        self.ours = not ray.is_initialized()
        if self.ours:
            with quietly():
                connect(address)
        self._running: dict[Any, str] = {}
        """Ray's reference -> the key of the task."""

    def room(self, cpus: int, gpus: float) -> int:
        """The number of tasks that the cluster's machines hold at once, were nothing else there."""
        return sum(room_for_workers(node, cpus, gpus) for node in alive_nodes())

    def start(self, key: str, function: str, texts: Sequence[str], cpus: int, gpus: float) -> None:
        """Start a task, or let it wait until a machine has room for it.

        Args:
            function: `module:function`, which is called with the texts and returns one.
        """
        remote = ray.remote(call).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": environment(cpus)}
        )
        self._running[remote.remote(function, list(texts))] = key

    @property
    def running(self) -> set[str]:
        """Keys of the tasks that have not ended."""
        return set(self._running.values())

    def ended(self, seconds: float) -> list[Ended]:
        """Wait until a task ends, at most so many seconds; returns all that have ended."""
        refs = list(self._running)
        ready, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        over = []
        for ref in ready:
            key = self._running.pop(ref)
            try:
                over.append(Ended(key, ray.get(ref)))
            except RayError as error:  # its process or its machine is gone, or could not begin
                over.append(Ended(key, None, short(error)))
        return over

    def close(self) -> None:
        """End the tasks that are left, and Ray where it was started here."""
        for ref in self._running:
            with suppress(RayError, ValueError):
                ray.cancel(ref, force=True)
        self._running.clear()
        if self.ours and ray.is_initialized():
            with quietly():
                ray.shutdown()
