"""F10: many threads at one index."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from defenses.stores import open_store
from defenses.stores.protocol import QueryStore, Sighting
from tests.abuse import FULL

THREADS = 8
SECONDS = 60.0 if FULL else 1.5
BATCH = 16
KEY = b"k" * 32


def sightings(random: np.random.Generator, count: int) -> list[Sighting]:
    """Sightings of random codes: far from each other in both channels."""
    return [
        Sighting(random.bytes(32), random.bytes(8), random.bytes(32), flagged=False, top_classes=(0, 1), client="anna", time=1.0)
        for _ in range(count)
    ]


async def add_and_search(store: QueryStore, *, seed: int, until: float) -> list[Sighting]:
    """Found neighbourhoods and look for those that were founded before, each with three bits of its code changed."""
    random, founded = np.random.default_rng(seed), list[Sighting]()
    while time.monotonic() < until:
        new = sightings(random, BATCH)
        matches = await store.find_or_found(new)
        assert [match.channel for match in matches] == [""] * BATCH
        founded += new
        known = [founded[at] for at in random.integers(len(founded), size=BATCH)]
        copies = [
            Sighting(random.bytes(32), one.perceptual, flipped(one.embedding), flagged=False, top_classes=(0, 1), client="anna", time=2.0)
            for one in known
        ]
        assert [match.neighbourhood.id for match in await store.find_or_found(copies)] == [one.digest for one in known]
    return founded


def flipped(code: bytes) -> bytes:
    """The code with one bit changed in each of its first three bytes."""
    return bytes(byte ^ 1 for byte in code[:3]) + code[3:]


@pytest.mark.abuse
@pytest.mark.anyio
async def test_no_insert_is_lost_between_threads(tmp_path: Path, figure: Callable[..., None]) -> None:
    """Each thread, with an event loop of its own, finds whatever it founded; all of it is there in the end, and after opening again."""
    url = f"sqlite:///{tmp_path}/store.db"
    store = await open_store(url, index="m", audit_key=KEY)
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(THREADS) as pool:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, asyncio.run, add_and_search(store, seed=seed, until=until)) for seed in range(THREADS)]
        founded = [one for thread in await asyncio.gather(*threads) for one in thread]
    assert await store.neighbourhoods() == len(founded)
    await store.close()
    store = await open_store(url, index="m", audit_key=KEY)
    assert await store.neighbourhoods() == len(founded)
    lost = 0
    for start in range(0, len(founded), 1000):
        page = founded[start : start + 1000]
        matches = await store.find_or_found(page)
        lost += sum(match.neighbourhood.id != one.digest for match, one in zip(matches, page, strict=True))
    await store.close()
    assert lost == 0
    figure(f"{len(founded):,} founded and as many copies searched by {THREADS} threads in {SECONDS:.0f} s: 0 crashes, {lost} lost")
