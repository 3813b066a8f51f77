"""Split the samples of a task among the clients by their labels. Pure; takes a generator."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fcil.errors import ConfigError
from fcil.options import Option

__all__ = ["Partition", "split"]

ATTEMPTS = 20_000


@dataclass(frozen=True, kw_only=True)
class Partition:
    """`[partition]`: how the samples of each task are split among the clients."""

    kind: Annotated[
        Literal["dirichlet", "quantity", "iid", "sites"],
        Option("proportions from a Dirichlet, some classes a client, an even split, or clients with their own images"),
    ] = "dirichlet"
    clients: Annotated[int, Option("number of clients; that of data.sites where it names any", low=1)] = 10
    beta: Annotated[float, Option("Dirichlet concentration; small is skewed", above=0)] = 0.5
    classes_per_client: Annotated[
        int, Option("for kind = quantity: classes of each task that a client holds", low=1)
    ] = 2
    min_samples: Annotated[int, Option("the split is drawn again until every client has as many", low=0)] = 6


def _dirichlet(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Per class draw p ~ Dir(beta 1_K), per sample a client ~ Categorical(p); again until all have `min_samples`."""
    k = settings.clients
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    for _ in range(ATTEMPTS):
        owner = np.empty(len(labels), np.int64)
        for of_class in members:
            owner[of_class] = rng.choice(k, len(of_class), p=rng.dirichlet(np.full(k, settings.beta)))
        if np.bincount(owner, minlength=k).min() >= settings.min_samples:
            return [np.flatnonzero(owner == client) for client in range(k)]
    raise ConfigError(
        f"partition.beta = {settings.beta:g}: in {ATTEMPTS} draws no split gave each of {k} clients "
        f"{settings.min_samples} samples; raise beta, or lower partition.clients or partition.min_samples"
    )


def _quantity(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Give each client the classes that fewest hold so far (ties at random); holders share a class evenly."""
    classes, k = np.unique(labels), settings.clients
    per_client = min(settings.classes_per_client, len(classes))
    if k * per_client < len(classes):
        raise ConfigError(
            f"partition.classes_per_client = {settings.classes_per_client}: {k} clients with {per_client} classes each "
            f"cannot hold a task of {len(classes)} classes; raise it to {-(-len(classes) // k)}"
        )
    holders: list[list[int]] = [[] for _ in classes]
    for client in range(k):
        load = np.array([len(h) for h in holders]) + rng.random(len(classes))
        for c in np.argsort(load)[:per_client]:
            holders[c].append(client)
    parts: list[list[np.ndarray]] = [[] for _ in range(k)]
    for c, sharers in zip(classes, holders, strict=True):
        for client, share in zip(
            sharers, np.array_split(rng.permutation(np.flatnonzero(labels == c)), len(sharers)), strict=True
        ):
            parts[client].append(share)
    return [np.sort(np.concatenate([np.empty(0, np.int64), *shares])) for shares in parts]


def _iid(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), settings.clients)]


def split(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Split one task's samples among the clients, which have none of their own.

    >>> labels, rng = np.array([0, 1, 0, 1, 0]), np.random.default_rng(0)
    >>> parts = split(labels, Partition(kind="quantity", clients=2, classes_per_client=1, min_samples=1), rng)
    >>> sorted(part.tolist() for part in parts)
    [[0, 2, 4], [1, 3]]

    Args:
        labels: (n,) class of each sample of the task.

    Returns:
        For each client the sorted indices of its samples; they are disjoint and together all of 0..n-1.

    Raises:
        ConfigError: the samples or classes do not suffice for that many clients.
    """
    needed = settings.clients * settings.min_samples
    if len(labels) < needed:
        raise ConfigError(
            f"partition.clients = {settings.clients}: a task with {len(labels)} training samples cannot give each "
            f"client partition.min_samples = {settings.min_samples} (that takes {needed}); lower one of the two"
        )
    parts = {"dirichlet": _dirichlet, "quantity": _quantity, "iid": _iid}[settings.kind](labels, settings, rng)
    too_few = [client for client, part in enumerate(parts) if len(part) < settings.min_samples]
    if too_few:
        raise ConfigError(
            f"partition.min_samples = {settings.min_samples}: client {too_few[0]} would hold {len(parts[too_few[0]])} "
            f"samples of a task of {len(labels)}; lower it, or partition.clients"
        )
    return parts
