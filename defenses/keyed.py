"""Keyed numbers: what only the owner of the secret can predict, and what is the same on every replica and after every restart."""

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def purpose_key(secret: bytes, purpose: str, model: str) -> bytes:
    """A key of 32 bytes for one purpose of one model."""
    return hmac.digest(secret, f"{purpose}:{model}".encode(), "sha256")


def client_key(key: bytes, client: str) -> bytes:
    """HKDF-Expand(key, client) to 32 bytes (RFC 5869, one block): shown to a court, it tells nothing about other clients' keys."""
    return hmac.digest(key, client.encode() + b"\x01", "sha256")


def share(key: bytes, message: bytes) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(hmac.digest(key, message, "sha256")[:8], "big") / 2**64


def numbers(key: bytes, messages: Sequence[bytes], count: int) -> NDArray[np.uint64]:
    """`count` numbers of 64 bits a message, (n, count): their order is a keyed permutation.

    SHAKE-256, not a numpy generator, whose streams may change between releases.
    """
    stream = b"".join(hashlib.shake_256(key + message).digest(8 * count) for message in messages)
    return np.frombuffer(bytearray(stream), dtype="<u8").reshape(len(messages), count)
