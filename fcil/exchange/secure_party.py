"""Hold the clients' side of secure sums in one process: secrets that stay in its memory, masked numbers that leave it.

Used by every exchange. What a client does here is what protects it: it masks before it answers, and it reveals no
shares from which the server could tell its numbers, or another client's, by asking twice.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from fcil.arrays import Arrays, digest
from fcil.errors import MergeError
from fcil.files import write_atomic
from fcil.method import Broadcast, Shapes
from fcil.secure import Keys, Revealed, SecureClient, encode
from fcil.server.replies import Failure, Partial
from fcil.server.validation import arrays_refusal

__all__ = ["GONE", "MASKED", "Parties", "Sum", "answered", "context_of"]

GONE = "secure sums: the secrets of this sum are not here; the process that drew them has ended"
MASKED = "masked"
"""Name of the masked numbers, (n, 2) uint64, in a `Partial` that stands for one client's sums."""
REMEMBERED = 10_000
"""Sums of which a process remembers whose numbers they added."""
MEMORY = "secure-sums"
"""Folder in a node's own, with a file for each phase in whose sum its client was: the hash of the clients in it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sum:
    """Names one secure sum among all others, with the number of clients that it takes."""

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


def context_of(run: str, phase: int, broadcast: Broadcast) -> bytes:
    """SHA-256 of what the clients of a sum are asked; who is asked something else gets masks that do not cancel."""
    text = f"{run}|{phase}|{digest(broadcast.arrays)}|{digest(broadcast.references)}"
    return hashlib.sha256(text.encode()).digest()


def _flat(sums: Arrays) -> np.ndarray:
    return np.concatenate([np.reshape(sums[name], -1) for name in sorted(sums)])


def _read(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MergeError(f"secure sums: {file} cannot be read ({error.strerror})") from None


def _write(file: Path | None, content: bytes) -> None:
    if file is None or file.exists():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content)  # on the disk before any share leaves: a loss of power must not make it forget
    except OSError as error:
        raise MergeError(f"secure sums: {file} cannot be written ({error.strerror}), so no share is revealed") from None


class Parties:
    """The clients of this process that take part in secure sums, in one sum each at a time."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], _Party] = {}
        """(run, client) -> it in its newest sum."""
        self._ended: dict[tuple[str, int], bytes] = {}
        """(run, client) -> session of the last sum for which it has revealed shares."""
        self._added: dict[tuple[str, int, int], bytes] = {}
        """(run, phase, client) -> hash of the clients for whose sum it has revealed shares."""

    def holds(self) -> bool:
        """Tell whether secrets are kept here that a sum under way still needs."""
        self._forget()
        return bool(self._open)

    def _forget(self) -> None:
        """Let go of the secrets of sums that should have ended."""
        now = time.monotonic()
        for place in [place for place, party in self._open.items() if party.until <= now]:
            del self._open[place]

    def keys(self, of: Sum, client: int, seconds: float = float("inf")) -> Keys:
        """Draw a client's secrets for a sum, in the place of those of an earlier one; returns its public keys.

        Args:
            seconds: time that the sum may take.

        Raises:
            MergeError: they were drawn before.
        """
        self._forget()
        place = (of.run, client)
        before = self._open.get(place)
        if self._ended.get(place) == of.session or (before is not None and before.of.session == of.session):
            raise MergeError("secure sums: secrets are drawn once for each sum")
        party = _Party(of, SecureClient(client, of.session, of.threshold), time.monotonic() + seconds)
        self._open[place] = party
        return party.client.keys

    def _party(self, of: Sum, client: int) -> SecureClient:
        self._forget()
        party = self._open.get((of.run, client))
        if party is None or party.of != of:
            raise MergeError(GONE)
        return party.client

    def share(self, of: Sum, client: int, keys: Mapping[int, Keys]) -> dict[int, bytes]:
        """Share a client's secrets among all. Raises MergeError as `SecureClient.share`."""
        return self._party(of, client).share(keys)

    def masked(
        self,
        of: Sum,
        client: int,
        received: Mapping[int, bytes],
        work: Callable[[], Partial],
        like: Shapes,
        context: bytes = b"",
    ) -> Partial:
        """Do a client's work and mask its sums: `sums` of what is returned are MASKED, or none where it has failed.

        Args:
            like: names and shapes of the sums, which the server adds by their places and cannot look at.
            context: from `context_of`.

        Raises:
            MergeError: as `SecureClient.masked`, and before the work is done.
        """
        party = self._party(of, client)
        party.receive(received)
        partial = work()
        if not partial.members:
            return replace(partial, sums={})
        try:
            if reason := arrays_refusal("sum", partial.sums, like, np.float64):
                raise MergeError(f"secure sums: {reason}")
            words = encode(_flat(partial.sums))
        except MergeError as error:
            return replace(partial, members=(), sums={}, failures=(*partial.failures, Failure(client, str(error))))
        return replace(partial, sums={MASKED: party.masked(words, context)})

    def reveal(self, of: Sum, client: int, arrived: Set[int], folder: Path | None = None) -> Revealed:
        """Reveal a client's shares, and forget its secrets.

        A phase may be asked for twice, as after a crash of the server. The two sums then have to add the same clients'
        numbers: the difference of two that do not would be the numbers of those who are in one of them alone.

        Args:
            folder: where it is remembered too, for longer than this process lives; None for nowhere.

        Raises:
            MergeError: as `SecureClient.reveal`; or shares were revealed for the same phase and other clients; or the
                folder cannot be written.
        """
        party, place = self._party(of, client), (of.run, of.phase, client)
        added = hashlib.sha256(repr(sorted(arrived)).encode()).digest()
        file = folder / MEMORY / hashlib.sha256(repr(place).encode()).hexdigest() if folder and of.run else None
        before = self._added.get(place) or _read(file)
        if of.run and before not in (None, added):
            raise MergeError(
                "secure sums: shares were revealed before for this phase's sum over other clients, and two sums would "
                "differ by the numbers of single clients; ask again when the same clients can take part"
            )
        party.check_arrived(arrived)
        _write(file, added)
        revealed = party.reveal(arrived)
        del self._open[of.run, client]
        self._ended[of.run, client] = of.session
        if of.run:
            self._added[place] = added
            while len(self._added) > REMEMBERED:
                del self._added[next(iter(self._added))]
        return revealed
