"""Shares of a secret, any `threshold` of which give it back and fewer say nothing (Shamir, 1979)."""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from fcil.errors import MergeError

__all__ = ["SECRET", "SHARE", "joined", "shares"]

PRIME = 2**521 - 1
SECRET = 32
"""Bytes of a secret."""
SHARE = 66
"""Bytes of a share."""


def shares(secret: bytes, holders: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Cut a secret of SECRET bytes into shares of SHARE bytes, one for each holder: a random polynomial's values.

    Args:
        holders: numbers from 0 on; holder h has the value at h + 1.
    """
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    out = {}
    for holder in holders:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (holder + 1) + coefficient) % PRIME
        out[holder] = value.to_bytes(SHARE, "big")
    return out


@lru_cache(maxsize=4)
def _weights(holders: tuple[int, ...]) -> list[int]:
    """Compute what the shares of holders are multiplied by in the secret (Lagrange), once for all secrets."""
    at, out = [holder + 1 for holder in holders], []
    for x in at:
        above = below = 1
        for other in at:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        out.append(above * pow(below, -1, PRIME) % PRIME)
    return out


def joined(parts: Mapping[int, bytes], threshold: int) -> bytes:
    """Give back the secret from at least `threshold` shares by holder: the polynomial's value at 0.

    Raises:
        MergeError: too few shares, or shares that do not belong together.
    """
    if len(parts) < threshold:
        raise MergeError(f"secure sums: {len(parts)} shares of a secret are known, and {threshold} are needed")
    holders = tuple(sorted(parts)[:threshold])
    terms = (int.from_bytes(parts[h], "big") * weight for h, weight in zip(holders, _weights(holders), strict=True))
    secret = sum(terms) % PRIME
    if secret >= 1 << (8 * SECRET):
        raise MergeError("secure sums: the shares of a secret do not belong together")
    return secret.to_bytes(SECRET, "big")
