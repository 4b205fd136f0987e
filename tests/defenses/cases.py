"""Cases for the tests of defences: random vectors, seeded."""

import hashlib
from collections.abc import Sequence

import numpy as np

from defenses.vocabulary import Case, Query


def case_of(n: int, *, classes: int = 10, seed: int = 0, clients: Sequence[str] = ("alice",)) -> Case:
    """A case of n distinct queries with random images and scores, as inference would hand it on."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    queries = tuple(
        Query(id=f"q{i}", client=clients[i % len(clients)], pixels=image, digest=hashlib.sha256(image.tobytes()).digest(), received=1e9 + i)
        for i, image in enumerate(pixels)
    )
    logits = random.normal(0, 3, (n, classes)).astype(np.float32)
    exponents = np.exp(logits)
    vectors = random.normal(0, 1, (n, 32)).astype(np.float32)
    return Case(
        queries=queries, logits=logits, features=vectors, embedding=vectors, scores=exponents / exponents.sum(axis=1, keepdims=True)
    )
