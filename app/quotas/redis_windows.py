"""Sliding windows in Redis, as `limits` keeps them there: one count for all replicas, on Redis's own clock."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from defenses.stores.protocol import StoreError
from defenses.stores.redis_url import NOT_A_REDIS_URL

CONNECTIONS: Final = 16
LOOKS: Final = 5

Result = TypeVar("Result")


class RedisWindows(RedisStorage):
    """`limits`' own storage, with a pool, short waits, and a way to give back.

    A wait of `timeout_seconds` is five short looks: a process that is busy itself for so long does not take that for Redis's silence,
    which would let each replica count on its own. Whoever waits for a connection while another's wait fails gives up with it, so that a
    Redis that is away costs every request one wait at most. `failures` counts those that were in vain.
    """

    IS_REMOTE: Final = True

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        backstop = 1.0 + timeout_seconds  # the looks end a wait long before the driver does
        try:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=CONNECTIONS, timeout=backstop, socket_timeout=backstop, socket_connect_timeout=backstop,
                retry=Retry(NoBackoff(), 0), protocol=2, driver_info=None,
            )  # fmt: skip
        except (ValueError, TypeError):  # what it says may repeat the URL, and with it a password
            raise StoreError(NOT_A_REDIS_URL) from None
        super().__init__(
            "async+redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="cloneguard:quotas",
            connection_pool=pool,  # type: ignore[arg-type]  # documented as an option, and passed on as one
        )
        self._pool, self._turns, self._look_seconds = pool, asyncio.Semaphore(CONNECTIONS), timeout_seconds / LOOKS
        self.failures = 0

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See the base class."""
        return await self._soon(super().acquire_sliding_window_entry, key, limit, expiry, amount)

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See the base class."""
        return await self._soon(super().get_sliding_window, key, expiry)

    async def give_back(self, key: str, expiry: int, amount: int) -> None:
        """Take back what was counted a moment ago."""
        await self._soon(self.incr, self._current_window_key(key), 2 * expiry, -amount)

    async def close(self) -> None:
        """Let go of connections."""
        await self._pool.aclose()

    async def _soon(self, work: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Result:
        failures = self.failures
        async with self._turns:
            if self.failures != failures:
                raise StorageError(TimeoutError("Redis was silent a moment ago"))
            asked = asyncio.create_task(work(*arguments))
            try:
                for _ in range(LOOKS):
                    if (await asyncio.wait((asked,), timeout=self._look_seconds))[0]:
                        return asked.result()
                raise StorageError(TimeoutError("Redis is silent"))
            except StorageError:
                self.failures += 1
                raise
            finally:
                asked.cancel()
