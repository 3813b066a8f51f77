"""Split the samples of a task among the clients by their labels. Pure; takes a generator."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np

from fcil.errors import ConfigError
from fcil.options import Option
from fcil.scenario import published
from fcil.scenario.domains import Domains, by_domain

__all__ = ["READ_BY", "Partition", "split", "unread"]

ATTEMPTS = 20_000
READ_BY = {
    "beta": ("dirichlet", "dirichlet_capped", "power_law"),
    "classes_per_client": ("quantity", "shared_classes"),
    "class_share": ("quantity", "shared_classes"),
    "exponent": ("power_law",),
    "partitioner": ("flwr",),
}
"""Setting -> the kinds of split that it means anything to; those that are not here mean something to all."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """`[partition]`: how the samples are split among the clients."""

    kind: Annotated[
        Literal[
            "dirichlet", "dirichlet_capped", "quantity", "shared_classes", "power_law", "iid", "domain", "flwr", "sites"
        ],
        Option(
            "proportions from a Dirichlet, by samples or by cuts with a cap; some classes a client, shared out or "
            "each with all its images; sizes by a power law; an even split; one domain a client; a partitioner of "
            "flwr-datasets; or clients with their own images"
        ),
    ] = "dirichlet"
    partitioner: Annotated[
        str, Option('for kind = flwr: a partitioner with its settings, "DirichletPartitioner(alpha = 0.5)"')
    ] = ""
    over: Annotated[
        Literal["task", "whole"],
        Option("what is split: each task's samples anew, or all at once, before they are cut into tasks"),
    ] = "task"
    clients: Annotated[int, Option("number of clients; that of data.sites where it names any", low=1)] = 10
    beta: Annotated[float, Option("Dirichlet concentration; small is skewed", above=0)] = 0.5
    classes_per_client: Annotated[
        int, Option("for kind = quantity and shared_classes: classes of each task that a client holds", low=1)
    ] = 2
    class_share: Annotated[
        float,
        Option("the same as a share of the task's classes, rounded down; 0: by classes_per_client", low=0, high=1),
    ] = 0.0
    exponent: Annotated[
        float, Option("for kind = power_law: sizes are drawn from the density a x^(a - 1); small is unequal", above=0)
    ] = 3.0
    min_samples: Annotated[int, Option("the split is drawn again until every client has as many", low=0)] = 6

    @property
    def what(self) -> str:
        """Say in words what is split."""
        return "a task" if self.over == "task" else "a training part"

    def each(self, classes: int) -> int:
        """The number of classes that a client holds of so many, at least one.

        >>> Partition(class_share=0.6).each(60), Partition(class_share=0.6).each(5), Partition().each(1)
        (36, 3, 1)
        """
        if self.class_share:
            return max(1, int(round(self.class_share * classes, 9)))  # 0.29 x 100 is 28.999999999999996
        return min(self.classes_per_client, classes)


def unread(settings: Partition) -> list[str]:
    """Name, with their values, the settings that were changed and mean nothing to this kind of split.

    >>> unread(Partition(kind="quantity", beta=0.1, classes_per_client=3))
    ['partition.beta = 0.1']
    """
    changed = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    return [
        f"partition.{name} = {value}"
        for name, value in changed.items()
        if settings.kind not in READ_BY.get(name, (settings.kind,))
        or (name == "classes_per_client" and settings.class_share)  # which says the same otherwise
    ]


def _dirichlet(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Per class draw p ~ Dir(beta 1_K), per sample a client ~ Categorical(p); again until all have `min_samples`."""
    k = settings.clients
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    for _ in range(ATTEMPTS):
        owner = np.empty(len(labels), np.int64)
        for of_class in members:
            owner[of_class] = rng.choice(k, len(of_class), p=rng.dirichlet(np.full(k, settings.beta)))
        sizes = np.bincount(owner, minlength=k)
        if sizes.min() >= settings.min_samples:
            # stable, so that each part is sorted; a search for every client would be quadratic
            return np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])
    raise _no_split(settings)


def _no_split(settings: Partition) -> ConfigError:
    key = "exponent" if settings.kind == "power_law" else "beta"
    return ConfigError(
        f"partition.{key} = {getattr(settings, key):g}: in {ATTEMPTS} draws no split gave each of {settings.clients} "
        f"clients {settings.min_samples} samples; raise {key}, or lower partition.clients or partition.min_samples"
    )


def _published(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw by a rule of `published` until there is a split in which all have `min_samples`."""
    k, beta = settings.clients, settings.beta
    for _ in range(ATTEMPTS):
        parts = (
            published.dirichlet_capped(labels, k, beta, rng)
            if settings.kind == "dirichlet_capped"
            else published.power_law(labels, k, beta, settings.exponent, rng)
        )
        if parts is not None and min(map(len, parts)) >= settings.min_samples:
            return [np.sort(part) for part in parts]
    raise _no_split(settings)


def _shared(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Let clients draw classes with all their samples, again until every class is drawn."""
    number = _each(labels, settings)
    for _ in range(ATTEMPTS):
        parts = published.shared_classes(labels, settings.clients, number, rng)
        if parts is not None:
            return parts
    raise ConfigError(
        f"partition.clients = {settings.clients}: in {ATTEMPTS} draws of {number} classes each there was always a "
        "class that nobody drew; raise it, or partition.classes_per_client or partition.class_share"
    )


def _each(labels: np.ndarray, settings: Partition) -> int:
    """The number of classes that a client holds; ConfigError where that leaves classes without a holder."""
    classes, k = len(np.unique(labels)), settings.clients
    number, needed = settings.each(classes), -(-classes // k)
    if number < needed:
        key = "class_share" if settings.class_share else "classes_per_client"
        raise ConfigError(
            f"partition.{key} = {getattr(settings, key):g}: {k} clients with {number} classes each "
            f"cannot hold {settings.what} of {classes} classes; raise it to "
            + (f"{np.ceil(1000 * needed / classes) / 1000:g}" if settings.class_share else f"{needed}")
        )
    return number


def _quantity(labels: np.ndarray, settings: Partition, rng: np.random.Generator) -> list[np.ndarray]:
    """Give each client the classes that fewest hold so far (ties at random); holders share a class evenly."""
    classes, k = np.unique(labels), settings.clients
    per_client = _each(labels, settings)
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


def _by_flower(
    labels: np.ndarray, settings: Partition, domains: Domains | None, rng: np.random.Generator
) -> list[np.ndarray]:
    """Split by a partitioner of flwr-datasets."""
    if not settings.partitioner:
        raise ConfigError(
            'partition.kind = "flwr": name the partitioner, partition.partitioner = "DirichletPartitioner(alpha = 0.5)"'
        )
    from fcil.scenario.flower_datasets import flower_parts  # its packages take a second

    names = None if domains is None else [domains.names[d] for d in domains.of_sample]
    return flower_parts(labels, settings.partitioner, settings.clients, settings.min_samples, names, rng)


def split(
    labels: np.ndarray, settings: Partition, rng: np.random.Generator, domains: Domains | None = None
) -> list[np.ndarray]:
    """Split the samples of a task, or of all, among the clients, which have none of their own.

    >>> labels, rng = np.array([0, 1, 0, 1, 0]), np.random.default_rng(0)
    >>> parts = split(labels, Partition(kind="quantity", clients=2, classes_per_client=1, min_samples=1), rng)
    >>> sorted(part.tolist() for part in parts)
    [[0, 2, 4], [1, 3]]

    Args:
        labels: (n,) class of each sample.
        domains: of the samples, where the data set tells them.

    Returns:
        For each client the sorted indices of its samples; together all of 0..n-1, and disjoint unless classes are
        shared with all their images.

    Raises:
        ConfigError: the samples or classes do not suffice for that many clients.
    """
    needed = settings.clients * settings.min_samples
    if len(labels) < needed and settings.kind != "shared_classes":
        raise ConfigError(
            f"partition.clients = {settings.clients}: {settings.what} with {len(labels)} training samples cannot give "
            f"each client partition.min_samples = {settings.min_samples} (that takes {needed}); lower one of the two"
        )
    rules = {"dirichlet": _dirichlet, "quantity": _quantity, "shared_classes": _shared, "iid": _iid}
    if settings.kind == "domain":
        parts = by_domain(domains, settings.clients, rng)
    elif settings.kind == "flwr":
        parts = _by_flower(labels, settings, domains, rng)
    else:
        parts = rules.get(settings.kind, _published)(labels, settings, rng)
    too_few = [client for client, part in enumerate(parts) if len(part) < settings.min_samples]
    if too_few:
        raise ConfigError(
            f"partition.min_samples = {settings.min_samples}: client {too_few[0]} would hold {len(parts[too_few[0]])} "
            f"samples of {settings.what} of {len(labels)}; lower it, or partition.clients"
        )
    return parts
