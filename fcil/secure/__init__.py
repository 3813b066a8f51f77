"""Sums over clients of which the server sees nothing but the sum: fixed point, pairwise masks, shares of their secrets.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, with both masks, for
a server that keeps to the protocol and looks at all it gets. Knows no method and no transport: see
docs/decisions/0012-secure-sums.md.
"""

from fcil.secure.client import Revealed, SecureClient
from fcil.secure.fixed_point import decode, encode, error_bound
from fcil.secure.keys import Keys, told_twice
from fcil.secure.masks import usable
from fcil.secure.server import unmasked

__all__ = [
    "Keys", "Revealed", "SecureClient", "decode", "encode", "error_bound", "told_twice", "unmasked", "usable",
]  # fmt: skip
