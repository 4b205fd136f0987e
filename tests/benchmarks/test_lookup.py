"""The benchmark of the stores, small."""

from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from benchmarks.lookup import INDEX, RADII, embedded, multi_index, redis, sources
from benchmarks.lookup_traffic import Codes, fill_embedded, fill_redis, random_codes, sightings, traffic
from benchmarks.multi_index import MultiIndex
from defenses.stores import open_store
from defenses.stores.hamming import HammingIndex
from defenses.stores.redis_store import key_prefix
from tests.redis_server import RunningRedis

pytestmark = pytest.mark.anyio
STORED = 60


def codes(seed: int) -> Codes:
    return random_codes(STORED, np.random.default_rng(seed))


async def test_both_stores_are_filled_as_they_fill_themselves(tmp_path: Path) -> None:
    """Every stored image is known by its pixels and by its codes, in either store, and traffic meets all kinds of matches."""
    stored, new = codes(1), codes(2)
    fill_embedded(tmp_path / "q.db", INDEX, stored)
    with RunningRedis(tmp_path / "redis") as server:
        async with Redis(port=server.port) as filler:
            await fill_redis(filler, key_prefix(INDEX), stored)
        queries = [*sightings(stored), *sightings(stored, first=10_000), *traffic(stored, new, np.random.default_rng(3))]
        answers = []
        for url in (f"sqlite:///{tmp_path}/q.db", server.url):
            store = await open_store(
                url, index=INDEX, audit_key=b"", perceptual_radius=RADII[0], embedding_radius=RADII[1], timeout_seconds=5.0
            )
            answers.append(await store.find_or_found(queries))
            assert not store.degraded
            await store.close()
    assert answers[0] == answers[1]
    found = [match.channel for match in answers[0]]
    assert found[: 2 * STORED] == ["digest"] * STORED + ["perceptual"] * STORED
    assert {"", "digest", "perceptual"} <= set(found[2 * STORED :])


async def test_the_rival_is_as_exact_as_the_stores(tmp_path: Path) -> None:
    """Multi-index hashing misses nobody within the radius: it is slower for no other reason than its buckets."""
    stored = codes(4)
    flips = np.random.default_rng(5).integers(0, 40, STORED)
    bits = np.unpackbits(stored.embedding, axis=1)
    for row, count in enumerate(flips.tolist()):
        bits[row, np.random.default_rng(row).choice(256, count, replace=False)] ^= 1
    asked = np.packbits(bits, axis=1)
    flat = HammingIndex(32)
    flat.add(stored.embedding)
    positions, distances = flat.oldest_within(asked, RADII[1])
    with RunningRedis(tmp_path / "redis") as server:
        async with Redis(port=server.port) as connection:
            rival = MultiIndex(connection, radii=RADII)
            await rival.fill(stored)
            answers = [await rival.ask(1, code) for code in asked]
    founded = iter(range(STORED + 1, 2 * STORED + 1))
    expected = [(at + 1, bits) if at >= 0 else (next(founded), -1) for at, bits in zip(positions.tolist(), distances.tolist(), strict=True)]
    assert [(sequence, bits) for sequence, bits, _ in answers] == expected


def test_it_measures_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row has its latencies, its rate and its bytes; without a data folder there are no pictures."""
    monkeypatch.delenv("CLONEGUARD_DATA", raising=False)
    assert sources([10, 20], pictures=5) == [("random bits", 10), ("random bits", 20)]
    new = random_codes(2 * 33, np.random.default_rng(6))
    for contender in (embedded, redis, multi_index):
        rows = contender(codes(7), new, calls=1, seed=0)
        assert [row["batch"] for row in rows] == [1, 32][: len(rows)]
        assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["rate"] > 0 and row["kept_bytes"] > 100 for row in rows)
