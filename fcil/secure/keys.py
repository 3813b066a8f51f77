"""The public keys that a client tells for a secure sum, and those that are told twice."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Keys", "told_twice"]

FIELD = 2**255 - 19
"""Curve25519's prime."""


@dataclass(frozen=True)
class Keys:
    """A client's public keys for one session, 32 bytes each."""

    pair: bytes
    """The key with which two clients agree on their mask."""
    box: bytes
    """The key with which two clients agree on how the shares between them are encrypted."""


def _point(public: bytes) -> int:
    """Give the point that a public key of 32 bytes stands for; of some there are several keys (RFC 7748, section 5)."""
    return int.from_bytes(public, "little") % 2**255 % FIELD


def told_twice(keys: Mapping[int, Keys]) -> dict[int, list[int]]:
    """Find public keys that are there twice: client -> the clients that told one of its keys, itself among them.

    A client that told one key for both purposes, and shares it with nobody, is alone there.
    """
    by_point: dict[int, list[int]] = {}
    for client, public_keys in keys.items():
        for public in (public_keys.pair, public_keys.box):
            by_point.setdefault(_point(public), []).append(client)
    out: dict[int, set[int]] = {}
    for tellers in by_point.values():
        for client in tellers if len(tellers) > 1 else ():
            out.setdefault(client, set()).update(tellers)
    return {client: sorted(out[client]) for client in sorted(out)}
