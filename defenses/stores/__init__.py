"""Where queries are remembered: `open_store` turns one URL into a store that keeps the promise of `protocol.QueryStore`."""

import asyncio
from pathlib import Path

from defenses.stores.embedded import EmbeddedStore
from defenses.stores.protocol import QueryStore, StoreError
from defenses.stores.redis_url import REDIS_URLS

_SQLITE = "sqlite:///"
DAY_SECONDS = 86_400.0


async def open_store(
    url: str, *, index: str, audit_key: bytes, perceptual_radius: int = 6, embedding_radius: int = 7, most_neighbourhoods: int = 1_000_000,
    retention_seconds: float = 90 * DAY_SECONDS, timeout_seconds: float = 0.05, audit_buffer: int = 100_000,
    most_audit_records: int = 500_000,
) -> QueryStore:  # fmt: skip
    """Open the store at `url`, ready to answer: `sqlite:///relative/path.db`, `sqlite:////absolute/path.db`, or `redis://...`.

    `index` names the model, calibration and code whose fingerprints these are; what other indexes hold in the same place
    is kept, and not searched. Opening rebuilds what is kept in memory; what comes back can answer. Radii are in bits, inclusive; 7 is the
    widest that is exact in the narrowest embedding code (64 bits). The oldest neighbourhoods are forgotten when there are more than
    `most_neighbourhoods`, and all that were founded more than `retention_seconds` ago. Redis is waited for `timeout_seconds`, and
    `audit_buffer` records are kept while it is away; it keeps
    the newest `most_audit_records`, a file keeps all. Raises StoreError for another URL, and for a place that can't be used.
    """
    if url.startswith(REDIS_URLS):
        from defenses.stores.redis_store import RedisStore  # noqa: PLC0415, a service without Redis doesn't load its driver

        return await RedisStore.opened(
            url, index=index, audit_key=audit_key, perceptual_radius=perceptual_radius, embedding_radius=embedding_radius,
            most_neighbourhoods=most_neighbourhoods, retention_seconds=retention_seconds, timeout_seconds=timeout_seconds,
            audit_buffer=audit_buffer, most_audit_records=most_audit_records,
        )  # fmt: skip
    path = url.removeprefix(_SQLITE)
    if path in {"", url} or path.endswith("/"):
        # The URL itself stays out of the message: it may carry a password.
        raise StoreError(
            "a store URL is sqlite:///relative/path.db or sqlite:////absolute/path.db, redis://HOST:PORT/DB, rediss:// or unix://PATH"
        )
    return await asyncio.to_thread(
        EmbeddedStore, Path(path), index=index, audit_key=audit_key, perceptual_radius=perceptual_radius, embedding_radius=embedding_radius,
        most_neighbourhoods=most_neighbourhoods, retention_seconds=retention_seconds,
    )  # fmt: skip
