"""What the lookup benchmark stores and asks: codes of random bits, or of real pictures; and stores filled without a million calls."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from redis.asyncio import Redis

from benchmarks.image_sets import tiny_imagenet, tiny_imagenet_classes
from benchmarks.seeds.fingerprints import Eyes
from defenses.stores.database import connected
from defenses.stores.packing import NO_CHECK, check_of, pack
from defenses.stores.protocol import Sighting
from defenses.vocabulary import Bits
from models.bundle import load

CLIENTS = 100
_PAGE = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Perceptual (n, 8) and embedding codes (n, e) of n images."""

    perceptual: Bits
    embedding: Bits

    def __len__(self) -> int:
        return len(self.perceptual)

    def __getitem__(self, rows: slice) -> "Codes":
        return Codes(self.perceptual[rows], self.embedding[rows])


def random_codes(count: int, random: np.random.Generator) -> Codes:
    """Bits of fair coins: 64 and 256 of them."""
    return Codes(*(random.integers(0, 256, (count, width), dtype=np.uint8) for width in (8, 32)))


def codes_of_pictures(count: int, random: np.random.Generator) -> Codes:
    """What the default bundle makes of `count` Tiny-ImageNet images, from the folder CLONEGUARD_DATA."""
    data = Path(os.environ["CLONEGUARD_DATA"])
    eyes = Eyes.of(load("cifar10", device="cpu", threads=1))
    found = eyes(tiny_imagenet(data, tiny_imagenet_classes(data), count, random))
    return Codes(found.perceptual, found.embedding)


def sightings(codes: Codes, *, first: int = 0) -> Iterator[Sighting]:
    """One sighting a code, with digests that count from `first`."""
    for number, (perceptual, embedding) in enumerate(zip(codes.perceptual, codes.embedding, strict=True), start=first):
        yield Sighting(
            digest=hashlib.sha256(b"%d" % number).digest(), perceptual=perceptual.tobytes(), embedding=embedding.tobytes(),
            flagged=number % 10 == 0, top_classes=(number % 10, (number + 1) % 10), client=f"192.0.2.{number % CLIENTS}", time=1e9,
        )  # fmt: skip


def traffic(stored: Codes, new: Codes, random: np.random.Generator) -> list[Sighting]:
    """As many queries as `new` has images: half of them new, a quarter near-duplicates of stored ones, a quarter their very pixels."""
    rows = random.integers(0, len(stored), len(new))
    old = list(sightings(Codes(stored.perceptual[rows], stored.embedding[rows]), first=2**40))
    fresh = list(sightings(new, first=2**41))
    asked = []
    for at, (row, kind) in enumerate(zip(rows.tolist(), random.integers(0, 4, len(new)).tolist(), strict=True)):
        if kind < 2:
            asked.append(fresh[at])
        elif kind == 2:
            bits = int.from_bytes(old[at].perceptual) ^ (1 << int(random.integers(64)))
            asked.append(replace(old[at], perceptual=bits.to_bytes(8)))
        else:
            asked.append(replace(old[at], digest=hashlib.sha256(b"%d" % row).digest()))
    return asked


async def fill_redis(redis: Redis, prefix: bytes, codes: Codes) -> None:
    """Write the log of founders as `founders.lua` would have, to an index that nobody asked yet."""
    check, epoch = NO_CHECK, b"00000000deadbeef"
    founders = enumerate(sightings(codes), start=1)
    while part := list(islice(founders, _PAGE)):
        page: dict[bytes | bytearray | memoryview[int] | str | float, bytes | bytearray | memoryview[int] | str | float] = {}
        pipeline = redis.pipeline(transaction=False)
        for sequence, founder in part:
            facts = pack(founder)[24:]
            own = check_of(check, facts)
            page[str(sequence)] = check + own + facts
            pipeline.set(prefix + b"digest:" + founder.digest, epoch + b"%d" % sequence, ex=7_776_000)
            check = own
        pipeline.hset(prefix + b"founders", mapping=page)
        await pipeline.execute()
    await redis.hset(prefix + b"meta", mapping={"epoch": epoch, "first": 1, "last": len(codes), "check": check})


def fill_embedded(path: Path, index: str, codes: Codes) -> None:
    """Write founders' rows as the embedded store would have."""
    connection = connected(path)
    connection.execute("INSERT INTO indexes (name) VALUES (?)", (index,))
    rows = (
        (sequence, 1, s.digest, s.digest, s.perceptual, s.embedding, s.flagged, *s.top_classes, s.client, s.time, s.time, 1, 0, 0)
        for sequence, s in enumerate(sightings(codes), start=1)
    )
    connection.execute("BEGIN")
    connection.executemany(f"INSERT INTO sightings VALUES ({', '.join('?' * 15)})", rows)
    connection.execute("COMMIT")
    connection.close()
