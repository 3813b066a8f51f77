"""Masks drawn from keys: X25519 for a secret that two clients share, HKDF for a key of it, ChaCha20 for the mask."""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["agreed", "mask", "usable"]


def agreed(private: bytes, public: bytes, session: bytes, purpose: bytes) -> bytes:
    """The key, 32 bytes, that two clients have in common for one purpose in one session.

    Args:
        private: a private key, 32 bytes.
        public: the other's public key, 32 bytes.

    Raises:
        ValueError: a public key that makes a shared secret of zeros.
    """
    secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(SHA256(), 32, salt=session, info=b"fcil secure sums " + purpose).derive(secret)


def usable(public: bytes) -> bool:
    """Tell whether a secret can be agreed on with a public key: some make one of zeros, whatever the other's key."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def mask(key: bytes, numbers: int) -> np.ndarray:
    """Draw (numbers, 2) uint64 from a key that is used for nothing else."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(16 * numbers))
    return np.frombuffer(stream, "<u8").astype(np.uint64).reshape(numbers, 2)
