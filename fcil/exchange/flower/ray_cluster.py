"""Provides a Ray cluster: one that is started and ended here, or one that is joined and left as it was."""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from fcil.errors import ConfigError
from fcil.exchange.flower.ray_actor import ClientActor
from fcil.exchange.flower.ray_sites import check_places, resource
from fcil.threads import cores

__all__ = ["Cluster", "alive_nodes", "connect", "environment", "quietly", "room_for_workers", "short"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def room_for_workers(resources: Mapping[str, float], threads: int, gpus: float) -> int:
    """Number of workers of `threads` CPUs and `gpus` GPUs that fit one machine; a share of a GPU lies on one GPU."""
    room = int(resources.get("CPU", 0) // threads)
    if gpus:
        have = resources.get("GPU", 0)
        room = min(room, int(have // gpus) if gpus >= 1 else int(have) * int(1 / gpus + 1e-9))
    return room


def short(error: BaseException) -> str:
    """The last line of one of Ray's long messages that is not empty, without the addresses of its processes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300] if lines else ''}"


def _call(ask: Callable[[], Any]) -> Any:
    """Ask Ray about the cluster; its answers are untyped."""
    return ask()


def alive_nodes() -> list[Mapping[str, float]]:
    """List what each machine of the cluster has, CPUs and GPUs."""
    return [node["Resources"] for node in _call(ray.nodes) if node["Alive"]]


def environment(threads: int) -> dict[str, str]:
    """Variables of a worker's environment: the threads of its arithmetic, and where it finds our code."""
    return {**dict.fromkeys(_THREADS, str(threads)), "PYTHONPATH": _code()}


def _code() -> str:
    """The paths of code outside this environment (a checkout, tests); they do no harm on machines that lack them."""
    ours = [os.path.abspath(path) for path in sys.path]
    outside = [p for p in ours if os.path.isdir(p) and not p.startswith((sys.prefix, sys.base_prefix))]
    return os.pathsep.join(dict.fromkeys(outside))


def _probe(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise ValueError("give host:port of the cluster's head, usually port 6379")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress Ray 2.55's warnings about itself: files and processes that it does not close, a coming change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
        yield


def connect(address: str) -> None:
    """Join the cluster at an address, or start one on this machine where none is given.

    Raises:
        ConfigError: no cluster answers there.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:  # "local", so that RAY_ADDRESS in the environment does not decide
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, **quiet)
        return
    try:
        _probe(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"run.ray_address = {address!r}: no Ray cluster answers there ({error})") from None


class Cluster:
    """A Ray cluster with room for a number of equal workers."""

    def __init__(self, workers: int, threads: int, gpus: float, address: str, most: int, sites: bool = False) -> None:
        """Start a cluster, or join one.

        Args:
            workers: number of workers; 0 for as many as fit, at most `most`.
            sites: one worker for each of `most` sites, on the node that holds it.

        Raises:
            ConfigError: they do not fit, or no cluster answers.
        """
        if gpus > 1 and gpus != int(gpus):
            raise ConfigError(f"run.gpus_per_client = {gpus:g}: a share of one GPU, or a whole number of GPUs")
        self.threads, self.gpus = threads, gpus
        self.ours = not ray.is_initialized()
        self.alone = self.ours and not address
        if self.ours:
            with quietly():
                connect(address)
        try:
            nodes = alive_nodes()
            if sites:
                check_places(most, threads, nodes)
            self.workers = most if sites else self._fit(workers, most, nodes)
        except BaseException:
            self.close()
            raise

    def _fit(self, wanted: int, most: int, nodes: Iterable[Mapping[str, float]]) -> int:
        room = sum(room_for_workers(node, self.threads, self.gpus) for node in nodes)
        # only a cluster that we joined may be in use; what is free in one that just started is not yet known
        free = room if self.alone else room_for_workers(_call(ray.available_resources), self.threads, self.gpus)
        if min(room, free) < max(wanted, 1):
            total = {k: round(v, 2) for k, v in _call(ray.cluster_resources).items() if k in ("CPU", "GPU")}
            raise ConfigError(
                f"run.workers = {wanted} with run.threads = {self.threads} and run.gpus_per_client = {self.gpus:g}: "
                f"Ray has room for {min(room, free)} such workers ({total or 'nothing'}, of which others may use a "
                "part). Lower one of these settings, or join a larger cluster with run.ray_address"
            )
        return wanted or max(1, min(room, free, most))

    def actor(self, app: str, site: int | None = None) -> Any:
        """Start a worker process, of a site on the node that holds it; its handle comes at once, the process later."""
        remote = ray.remote(ClientActor).options(
            num_cpus=self.threads, num_gpus=self.gpus, max_restarts=0,
            runtime_env={"env_vars": environment(self.threads)}, resources={} if site is None else {resource(site): 1},
        )  # fmt: skip
        return remote.remote(app, site)

    def close(self) -> None:
        """End Ray if it was started here."""
        if self.ours and ray.is_initialized():
            with quietly():
                ray.shutdown()
