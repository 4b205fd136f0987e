"""Documents in Redis: a list a document, so that its length is its version."""

import secrets
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.documents.protocol import BrokenError, ConflictError, Document, DocumentsError
from defenses.stores.redis_url import NOT_A_REDIS_URL

TIMEOUT_SECONDS = 1.0  # no query waits for a document
WRITE = """
if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
return redis.call('RPUSH', KEYS[1], ARGV[2])
"""


class RedisDocuments:
    """Keep versions in lists without expiry, and who claimed which in a hash beside; one hash tag, so all is in one slot of a cluster."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        try:
            self._redis = Redis.from_url(
                url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0)
            )
        except (ValueError, TypeError):  # what it says may repeat the URL, and with it a password
            raise DocumentsError(NOT_A_REDIS_URL) from None
        self._token = secrets.token_bytes(16)

    async def newest(self, name: str) -> int:
        """See Documents."""
        with _driver_errors():
            return await self._redis.llen(_key(name))

    async def read(self, name: str) -> Document | None:
        """See Documents."""
        return await self.version(name, await self.newest(name))

    async def version(self, name: str, number: int) -> Document | None:
        """See Documents."""
        with _driver_errors():
            raw = await cast(Awaitable[bytes | None], self._redis.lindex(_key(name), number - 1)) if number > 0 else None
        return None if raw is None else _document(name, number, raw)

    async def history(self, name: str, *, limit: int = 100) -> list[Document]:
        """See Documents."""
        with _driver_errors():
            async with self._redis.pipeline(transaction=True) as asked:
                asked.llen(_key(name))
                asked.lrange(_key(name), -limit, -1)
                newest, found = await asked.execute()
        documents = []
        for back, raw in enumerate(reversed(found)):
            with suppress(BrokenError):
                documents.append(_document(name, newest - back, raw))
        return documents

    async def write(self, name: str, body: dict[str, Any], *, expected: int) -> Document:
        """See Documents."""
        with _driver_errors():
            written = await cast(Awaitable[int], self._redis.eval(WRITE, 1, _key(name), str(expected), orjson.dumps(body)))
        if not written:
            raise ConflictError(f"{name} is not at version {expected} any more")
        return Document(name, expected + 1, body)

    async def claim(self, name: str, version: int) -> bool:
        """See Documents."""
        with _driver_errors():
            await self._redis.hsetnx(f"{_key(name)}:claimed", str(version), self._token)
            return await cast(Awaitable[bytes | None], self._redis.hget(f"{_key(name)}:claimed", str(version))) == self._token

    async def close(self) -> None:
        """See Documents; a connection that does not close in time ends with the process."""
        with suppress(RedisError, OSError, TimeoutError):
            await self._redis.aclose()


def _key(name: str) -> str:
    assert name.isidentifier(), name
    return f"cloneguard:{{documents}}:{name}"


def _document(name: str, number: int, raw: bytes) -> Document:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BrokenError(f"version {number} of the document {name!r} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BrokenError(f"version {number} of the document {name!r} is not a JSON object")
    return Document(name, number, body)


@contextmanager
def _driver_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise DocumentsError(f"documents in Redis: {error}") from error
