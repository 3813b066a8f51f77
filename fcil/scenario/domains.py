"""Split samples among the clients by their domains: hospitals, cameras, styles. Pure; takes a generator."""

from dataclasses import dataclass

import numpy as np

from fcil.errors import ConfigError

__all__ = ["Domains", "by_domain"]


@dataclass(frozen=True)
class Domains:
    """The domain of each sample, and the names of all domains that the data set has."""

    of_sample: np.ndarray
    """(n,) int64, index into `names`."""
    names: tuple[str, ...]


def by_domain(domains: Domains | None, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Give client k the samples of domain k mod D, in the order of names; clients of one domain share it evenly.

    >>> parts = by_domain(Domains(np.array([1, 0, 1, 0]), ("day", "night")), 2, np.random.default_rng(0))
    >>> [part.tolist() for part in parts]
    [[1, 3], [0, 2]]

    Returns:
        For each client the sorted indices of its samples.

    Raises:
        ConfigError: the data set tells no domains, or the number of clients is no multiple of theirs.
    """
    if domains is None:
        raise ConfigError('partition.kind = "domain": the data set does not tell the domains of its images')
    count = len(domains.names)
    if clients % count:
        raise ConfigError(
            f"partition.clients = {clients}: there are {count} domains ({', '.join(domains.names)}); set it to as "
            "many, or to a multiple of that, where clients share a domain"
        )
    parts = [np.empty(0, np.int64)] * clients
    for domain in range(count):
        members = rng.permutation(np.flatnonzero(domains.of_sample == domain))
        holders = range(domain, clients, count)
        for client, share in zip(holders, np.array_split(members, len(holders)), strict=True):
            parts[client] = np.sort(share)
    return parts
