"""The client's half of a secure sum: keys, shares of its secrets, its masked numbers, and what it reveals."""

import secrets
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fcil.errors import MergeError
from fcil.secure.fixed_point import added, negative
from fcil.secure.keys import Keys, told_twice
from fcil.secure.masks import agreed, mask, usable
from fcil.secure.shamir import SHARE, shares

__all__ = ["Revealed", "SecureClient", "pair_purpose"]

PAIR, BOX = b"mask", b"box"
"""Purposes of the keys that two clients agree on."""


@dataclass(frozen=True)
class Revealed:
    """The shares that a client reveals once it is known whose numbers have arrived."""

    own_mask: Mapping[int, bytes]
    """Client whose numbers have arrived -> a share of the seed of its own mask."""
    pair_key: Mapping[int, bytes]
    """Client whose numbers have not -> a share of its private key, from which its masks with others follow."""


def pair_purpose(one: int, other: int, context: bytes) -> bytes:
    """The purpose of the key of two clients' mask: theirs alone, and of what they were asked."""
    return PAIR + min(one, other).to_bytes(8, "big") + max(one, other).to_bytes(8, "big") + context


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@dataclass
class SecureClient:
    """One client in one secure sum: `keys`, `share`, `receive`, `masked` and `reveal`, once each and in this order.

    All secrets are drawn from the operating system, never from a run's seed, which the server knows; the sum does not
    depend on them.
    """

    number: int
    session: bytes
    """What is told apart: a run and a phase. The same for all clients of a sum."""
    threshold: int
    """Number of clients who can undo masks together, and without whom nobody can."""
    _pair: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _box: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _seed: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _others: dict[int, Keys] = field(default_factory=dict, repr=False)
    _held: dict[int, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    _masked: bool = False
    _revealed: bool = False

    @property
    def keys(self) -> Keys:
        """The public keys, for all others."""
        return Keys(_public(self._pair), _public(self._box))

    def share(self, keys: Mapping[int, Keys]) -> dict[int, bytes]:
        """Share the secrets among all clients, each share readable by its receiver alone: receiver -> message.

        Args:
            keys: the public keys of all clients, this one's too.

        Raises:
            MergeError: fewer clients than the threshold or than two, a threshold that a minority reaches, or foreign
                or unusable keys.
        """
        if len(keys) < 2:
            raise MergeError("secure sums: of one client the sum is its own numbers; two are needed at least")
        if not len(keys) >= self.threshold > len(keys) // 2:
            raise MergeError(
                f"secure sums: a threshold of {self.threshold} among {len(keys)} clients; it has to be more than half, "
                "so that no two disjoint groups can undo masks, and no more than all"
            )
        if keys.get(self.number) != self.keys:
            raise MergeError(f"secure sums: client {self.number} was told other keys than its own")
        if self._others:
            raise MergeError("secure sums: secrets are shared once")
        if told_twice(keys):
            raise MergeError("secure sums: a public key is there twice, and each is of one client for one purpose")
        if bad := [client for client, k in keys.items() if not (usable(k.pair) and usable(k.box))]:
            raise MergeError(f"secure sums: no secret can be agreed on with the public keys of client {min(bad)}")
        self._others = dict(keys)
        seeds, pairs = (shares(secret, sorted(keys), self.threshold) for secret in (self._seed, self._pair))
        self._held[self.number] = (seeds[self.number], pairs[self.number])
        return {other: self._boxed(other, seeds[other] + pairs[other]) for other in keys if other != self.number}

    def _lock(self, other: int) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(agreed(self._box, self._others[other].box, self.session, BOX))

    def _context(self, sender: int, receiver: int) -> bytes:
        return self.session + sender.to_bytes(8, "big") + receiver.to_bytes(8, "big")

    def _boxed(self, other: int, text: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + self._lock(other).encrypt(nonce, text, self._context(self.number, other))

    def _receive(self, sender: int, message: bytes) -> None:
        try:
            context = self._context(sender, self.number)
            text = self._lock(sender).decrypt(message[:12], message[12:], context)
        except (InvalidTag, KeyError, ValueError) as error:
            raise MergeError(f"secure sums: the shares from client {sender} were changed on their way") from error
        self._held[sender] = (text[:SHARE], text[SHARE:])

    def receive(self, received: Mapping[int, bytes]) -> None:
        """Take the shares of the others, once.

        Args:
            received: sender -> its message to this client. Who is missing here has no mask in common with anybody.

        Raises:
            MergeError: fewer clients have shared than the threshold, or a message was changed on its way; or they were
                taken before.
        """
        if len(self._held) != 1 or len(received) + 1 < self.threshold:
            raise MergeError(
                f"secure sums: {len(received) + 1} clients have shared their secrets, {self.threshold} are needed, once"
            )
        for sender, message in received.items():
            self._receive(sender, message)

    def masked(self, words: np.ndarray, context: bytes = b"") -> np.ndarray:
        """Add masks to encoded numbers, (n, 2) uint64: the client's own, and one for each client that has shared.

        Args:
            context: what the clients of the sum have in common; the masks of two with unlike ones do not cancel.

        Raises:
            MergeError: no shares were received, or numbers were masked before: the difference of both would be seen.
        """
        if len(self._held) < 2 or self._masked:
            raise MergeError("secure sums: numbers are masked once, after the shares of others are there")
        self._masked = True
        parts = [words, mask(self._seed, len(words))]
        for other in self._held.keys() - {self.number}:
            purpose = pair_purpose(self.number, other, context)
            pair = mask(agreed(self._pair, self._others[other].pair, self.session, purpose), len(words))
            parts.append(pair if other > self.number else negative(pair))
        return added(parts)

    def reveal(self, arrived: Set[int]) -> Revealed:
        """The shares by which the masks of the sum can be undone; a second time, or of too few clients, none.

        Of every client it is the share of one secret only: of the seed of its own mask where its numbers have arrived,
        else of its private key. Who knew both could read its numbers.

        Args:
            arrived: the clients whose masked numbers the server has.

        Raises:
            MergeError: asked again, or fewer have arrived than the threshold.
        """
        self.check_arrived(arrived)
        self._revealed = True
        return Revealed(
            {c: seed for c, (seed, _) in self._held.items() if c in arrived},
            {c: pair for c, (_, pair) in self._held.items() if c not in arrived},
        )

    def check_arrived(self, arrived: Set[int]) -> None:
        """Check that shares may be revealed. Raises MergeError as `reveal`."""
        if self._revealed:
            raise MergeError("secure sums: shares are revealed once; twice would be a way to somebody's numbers")
        if len(arrived) < self.threshold or not arrived <= self._held.keys():
            raise MergeError(
                f"secure sums: numbers of {len(arrived)} clients have arrived, {self.threshold} are needed of those "
                "who have shared their secrets"
            )
