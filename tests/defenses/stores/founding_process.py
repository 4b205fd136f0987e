"""A process that founds and appends for ever and prints what was acknowledged, to be killed: URL SEED."""

import asyncio
import sys

import numpy as np

from defenses.stores import open_store
from defenses.stores.protocol import AuditEntry
from tests.defenses.stores.rule import crowd

INDEX = "cifar10@1"
KEY = b"k" * 32


async def main(url: str, seed: int) -> None:
    """Print one line per acknowledged call: DIGEST:NEIGHBOURHOOD of each sighting, then the audit body."""
    store = await open_store(url, index=INDEX, audit_key=KEY)
    rng = np.random.default_rng(seed)
    calls = 0
    while True:
        calls += 1
        sightings = list(crowd(rng, size=int(rng.integers(1, 17))))
        matches = await store.find_or_found(sightings)
        body = b'{"seed":%d,"call":%d}' % (seed, calls)
        await store.append_audit([AuditEntry("anna", 1.0, flagged=False, near_duplicate=False, altered=False, body=body)])
        homes = (f"{new.digest.hex()}:{match.neighbourhood.id.hex()}" for new, match in zip(sightings, matches, strict=True))
        print(*homes, body.decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
