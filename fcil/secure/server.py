"""The server's half of a secure sum: it adds masked numbers, and undoes the masks that do not cancel."""

from collections.abc import Mapping, Set

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fcil.errors import MergeError
from fcil.secure.client import Revealed, pair_purpose
from fcil.secure.fixed_point import added, negative
from fcil.secure.keys import Keys
from fcil.secure.masks import agreed, mask
from fcil.secure.shamir import joined

__all__ = ["unmasked"]


def unmasked(
    masked: Mapping[int, np.ndarray],
    shared: Set[int],
    keys: Mapping[int, Keys],
    revealed: Mapping[int, Revealed],
    session: bytes,
    threshold: int,
    context: bytes = b"",
) -> np.ndarray:
    """Sum the numbers of all clients whose masked ones have arrived: (n, 2) uint64, exact modulo 2^128.

    Masks between two clients that have both arrived cancel. Those with a client that has not are drawn again from its
    private key, and everybody's own mask from its seed; both are put together from shares.

    Args:
        masked: client -> its masked numbers, (n, 2) uint64.
        shared: the clients that shared their secrets, among whom masks were agreed on.
        keys: client -> its public keys.
        revealed: client -> the shares that it revealed.
        context: as in `SecureClient.masked`.

    Raises:
        MergeError: too few shares, shares that do not belong together, or not those of the keys.
    """
    numbers = len(next(iter(masked.values())))
    parts = [masked[client] for client in sorted(masked)]
    for client in sorted(masked):
        shares = {holder: r.own_mask[client] for holder, r in revealed.items() if client in r.own_mask}
        parts.append(negative(mask(joined(shares, threshold), numbers)))
    for client in sorted(shared - masked.keys()):
        shares = {holder: r.pair_key[client] for holder, r in revealed.items() if client in r.pair_key}
        private = joined(shares, threshold)
        if X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() != keys[client].pair:
            raise MergeError(f"secure sums: the shares of client {client}'s key give another key than it announced")
        for other in sorted(masked):
            purpose = pair_purpose(client, other, context)
            pair = mask(agreed(private, keys[other].pair, session, purpose), numbers)
            parts.append(negative(pair) if client > other else pair)
    return added(parts)
