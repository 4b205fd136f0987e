"""Several stores on one Redis, as so many servers would have them; and waiting for what takes a moment."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from defenses.stores import open_store
from defenses.stores.protocol import QueryStore
from tests.redis_server import RunningRedis

KEY = b"k" * 32
PATIENT = 5.0  # seconds: a machine that is busy with other things is no outage
GIVE_UP = 30.0  # seconds


@asynccontextmanager
async def replicas(redis: RunningRedis, count: int, **options: Any) -> AsyncIterator[list[QueryStore]]:
    """Open the same index `count` times."""
    given = {"index": "cifar10@1", "audit_key": KEY, "embedding_radius": 12, "timeout_seconds": PATIENT, **options}
    stores = [await open_store(redis.url, **given) for _ in range(count)]
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(GIVE_UP):
        while not is_so():  # noqa: ASYNC110, nobody tells
            await asyncio.sleep(0.02)
