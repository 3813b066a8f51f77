"""Hold the clients' side of secure sums in one process: secrets that stay in its memory, masked numbers that leave it.

Used by every exchange. What a client does here is what protects it: it masks before it answers, and it reveals no
shares from which the server could tell its numbers, or another client's, by asking twice.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from fcil.arrays import Arrays
from fcil.errors import MergeError
from fcil.secure import Keys, Revealed, SecureClient, encode
from fcil.server.replies import Failure, Partial

__all__ = ["GONE", "MASKED", "Parties", "Sum", "answered"]

GONE = "secure sums: the secrets of this sum are not here; the process that drew them has ended"
MASKED = "masked"
"""Name of the masked numbers, (n, 2) uint64, in a `Partial` that stands for one client's sums."""
REMEMBERED = 10_000
"""Sums of which a process remembers whose numbers they added."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sum:
    """What tells one secure sum from all others, and how many clients it takes."""

    run: str
    """Hash of the run, made by the client; empty where nobody asks twice."""
    phase: int
    session: bytes
    """Drawn anew for each attempt to have the sum."""
    threshold: int


@dataclass
class _Party:
    """A client in a sum that is under way."""

    of: Sum
    client: SecureClient
    until: float
    """When it may be forgotten, on `time.monotonic`."""


def answered(client: int, step: Callable[..., T], *args: object) -> T | Failure:
    """Take a client's step of the protocol; what the protocol forbids is a failure with its reason."""
    try:
        return step(*args)
    except MergeError as error:
        return Failure(client, str(error))


def _flat(sums: Arrays) -> np.ndarray:
    return np.concatenate([np.reshape(sums[name], -1) for name in sorted(sums)])


class Parties:
    """The clients of this process that take part in secure sums, in one sum each at a time."""

    def __init__(self) -> None:
        self._open: dict[int, _Party] = {}
        self._added: dict[tuple[str, int, int], bytes] = {}
        """(run, phase, client) -> hash of the clients for whose sum it has revealed shares."""

    def holds(self) -> bool:
        """Tell whether secrets are kept here that a sum under way still needs."""
        return any(party.until > time.monotonic() for party in self._open.values())

    def keys(self, of: Sum, client: int, seconds: float = float("inf")) -> Keys:
        """Draw a client's secrets for a sum, in the place of those of an earlier one; returns its public keys.

        Args:
            seconds: time that the sum may take.

        Raises:
            MergeError: they were drawn before.
        """
        before = self._open.get(client)
        if before is not None and before.of.session == of.session:
            raise MergeError("secure sums: secrets are drawn once for each sum")
        party = _Party(of, SecureClient(client, of.session, of.threshold), time.monotonic() + seconds)
        self._open[client] = party
        return party.client.keys

    def _party(self, of: Sum, client: int) -> SecureClient:
        party = self._open.get(client)
        if party is None or party.of != of:
            raise MergeError(GONE)
        return party.client

    def share(self, of: Sum, client: int, keys: Mapping[int, Keys]) -> dict[int, bytes]:
        """Share a client's secrets among all. Raises MergeError as `SecureClient.share`."""
        return self._party(of, client).share(keys)

    def masked(self, of: Sum, client: int, received: Mapping[int, bytes], work: Callable[[], Partial]) -> Partial:
        """Do a client's work and mask its sums: `sums` of what is returned are MASKED, or none where it has failed.

        Raises:
            MergeError: as `SecureClient.masked`.
        """
        party = self._party(of, client)
        partial = work()
        if not partial.members:
            return replace(partial, sums={})
        try:
            words = encode(_flat(partial.sums))
        except MergeError as error:
            return replace(partial, members=(), sums={}, failures=(*partial.failures, Failure(client, str(error))))
        return replace(partial, sums={MASKED: party.masked(words, received)})

    def reveal(self, of: Sum, client: int, arrived: Set[int]) -> Revealed:
        """Reveal a client's shares, and forget its secrets.

        A phase may be asked for twice, as after a crash of the server. The two sums then have to add the same clients'
        numbers: the difference of two that do not would be the numbers of those who are in one of them alone.

        Raises:
            MergeError: as `SecureClient.reveal`; or shares were revealed for the same phase and other clients.
        """
        party, place = self._party(of, client), (of.run, of.phase, client)
        added = hashlib.sha256(repr(sorted(arrived)).encode()).digest()
        if of.run and self._added.get(place, added) != added:
            raise MergeError(
                "secure sums: this phase's sum over other clients has been had before, and the two would differ by the "
                "numbers of single clients; ask again when the same clients can take part, or restart their nodes"
            )
        revealed = party.reveal(arrived)
        del self._open[client]
        if of.run:
            self._added[place] = added
            while len(self._added) > REMEMBERED:
                del self._added[next(iter(self._added))]
        return revealed
