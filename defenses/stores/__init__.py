"""Where queries are remembered: `open_store` turns one URL into a store that keeps the promise of `protocol.QueryStore`."""

import asyncio
from pathlib import Path

from defenses.stores.embedded import EmbeddedStore
from defenses.stores.protocol import QueryStore, StoreError

_SQLITE = "sqlite:///"


async def open_store(url: str, *, index: str, audit_key: bytes, perceptual_radius: int = 6, embedding_radius: int = 7) -> QueryStore:
    """Open the store at `url`, ready to answer: `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`.

    `index` names the model, calibration and code whose fingerprints these are; what other indexes hold in the same place
    is kept, and not searched. Opening rebuilds what is kept in memory, in a thread; what comes back can answer. Radii are in
    bits, inclusive; 7 is the widest that is exact in the narrowest embedding code (64 bits). Raises StoreError for another
    URL, and for a place that can't be used.
    """
    path = url.removeprefix(_SQLITE)
    if path in {"", url} or path.endswith("/"):
        # The URL itself stays out of the message: it may carry a password.
        raise StoreError("a store URL is sqlite:///relative/path.db or sqlite:////absolute/path.db; nothing else is supported")
    return await asyncio.to_thread(
        EmbeddedStore, Path(path), index=index, audit_key=audit_key, perceptual_radius=perceptual_radius, embedding_radius=embedding_radius
    )
