"""Charge queries to quotas, wherever they are counted."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from app.errors import QuotaExceededError
from app.quotas.limits import Limits, OwnLimits, Standing, Window
from app.quotas.redis_windows import RedisWindows
from app.quotas.sqlite_windows import SqliteWindows
from app.settings import Settings
from defenses.stores.protocol import StoreError
from defenses.stores.redis_url import REDIS_URLS

RETRY_SECONDS = 1.0  # between two looks at a count that failed

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Charge:
    """Queries that were counted, where, and the headers that tell their client."""

    windows: tuple[Window, ...] = ()
    queries: int = 0
    counters: tuple["Counter", ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


class Counter:
    """Count in one storage, all windows of a query or none. Raises limits' StorageError.

    The library's windows are exact one by one. A query that counts in several takes them in order, and gives back what it has
    taken when a later one refuses.
    """

    def __init__(self, storage: RedisWindows | SqliteWindows) -> None:
        self.storage, self._limiter = storage, SlidingWindowCounterRateLimiter(storage)

    async def count(self, windows: Sequence[Window], queries: int) -> bool:
        """Whether all windows have room for so many queries, which then are counted."""
        for place, window in enumerate(windows):
            if not await self._limiter.hit(window.item, *window.path, cost=queries):
                await self.give_back(windows[:place], queries)
                return False
        return True

    async def give_back(self, windows: Sequence[Window], queries: int) -> None:
        """Take back what was counted a moment ago."""
        for window in windows:
            await self.storage.give_back(window.key, window.item.get_expiry(), queries)

    async def standings(self, windows: Sequence[Window]) -> list[Standing]:
        """How far each window is used."""
        if self.storage.IS_REMOTE and len(windows) > 1:
            return await asyncio.gather(*(self._standing(window) for window in windows))
        return [await self._standing(window) for window in windows]

    async def _standing(self, window: Window) -> Standing:
        seconds = window.item.get_expiry()
        previous, previous_left, current, current_left = await self.storage.get_sliding_window(window.key, seconds)
        return Standing(window.item.amount, seconds, previous, previous_left, current, current_left - seconds)


class Quotas:
    """The quotas in force. `limits` may be replaced at any time: each query is judged by one version of them.

    What a remote count allows is also counted by this process alone: while the remote one is away, its own decides, so that nobody
    starts anew; then a limit holds once a replica, and `on_degraded` is told.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        own_limits: Callable[[str], OwnLimits],
        shared: RedisWindows | SqliteWindows,
        on_degraded: Callable[[bool], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._own_limits, self._on_degraded, self._monotonic = own_limits, on_degraded, monotonic
        self._shared, self._alone = Counter(shared), Counter(SqliteWindows())
        self._is_degraded, self._retry_at = False, 0.0

    async def charge(self, client: str, queries: int) -> Charge:
        """Count queries of a client, all or none. Raises QuotaExceededError."""
        windows = self.limits.windows(client, self._own_limits(client))
        if not windows:
            return Charge()

        async def count(counter: Counter) -> tuple[bool, list[Standing]]:
            return await counter.count(windows, queries), await counter.standings(windows)

        counted = await self._ask(count)
        counters: tuple[Counter, ...] = (self._shared,)
        if counted is None:
            counted, counters = await count(self._alone), (self._alone,)
        elif counted[0] and self._shared.storage.IS_REMOTE and await self._alone.count(windows, queries):
            counters = (self._shared, self._alone)
        is_allowed, standings = counted
        headers = _headers(windows, standings)
        if not is_allowed:
            raise QuotaExceededError(seconds=max(standing.wait(queries) for standing in standings) or 1, headers=headers)
        return Charge(windows, queries, counters, headers)

    async def look(self, client: str) -> dict[str, str]:
        """The headers that tell a client where it stands, without counting. Raises QuotaExceededError where nothing is left."""
        windows = self.limits.windows(client, self._own_limits(client))
        if not windows:
            return {}
        standings = await self._ask(lambda counter: counter.standings(windows)) or await self._alone.standings(windows)
        headers = _headers(windows, standings)
        if seconds := max(standing.wait(1) for standing in standings):
            raise QuotaExceededError(seconds=seconds, headers=headers)
        return headers

    async def give_back(self, charge: Charge) -> None:
        """Take back a charge whose queries were not served, where it was counted: anywhere else it would be a present."""
        if self._alone in charge.counters:
            await self._alone.give_back(charge.windows, charge.queries)
        if self._shared in charge.counters:
            await self._ask(lambda counter: counter.give_back(charge.windows, charge.queries))

    async def close(self) -> None:
        """Let go of connections and files."""
        await self._shared.storage.close()
        await self._alone.storage.close()

    async def _ask(self, work: Callable[[Counter], Awaitable[Result]]) -> Result | None:
        """What the shared count says, None while it is away: then one query in a second finds out whether it is back."""
        if self._is_degraded and self._monotonic() < self._retry_at:
            return None
        self._retry_at = self._monotonic() + RETRY_SECONDS
        try:
            result = await work(self._shared)
        except (StorageError, OSError, ValueError):  # the last: a key that is no number
            self._degraded(is_degraded=True)
            return None
        self._degraded(is_degraded=False)
        return result

    def _degraded(self, *, is_degraded: bool) -> None:
        if is_degraded is not self._is_degraded:
            self._is_degraded = is_degraded
            self._on_degraded(is_degraded)


def open_quotas(
    settings: Settings, *, limits: Limits, own_limits: Callable[[str], OwnLimits], on_degraded: Callable[[bool], None]
) -> Quotas:
    """Count where the store is: in Redis for all replicas, else in STATE/quotas.db. Raises StoreError."""
    url = settings.store_url()
    shared: RedisWindows | SqliteWindows
    if url.startswith(REDIS_URLS):
        shared = RedisWindows(url, timeout_seconds=settings.store.timeout_seconds)
    else:
        path = settings.state / "quotas.db"
        try:
            settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            shared = SqliteWindows(path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"can't count quotas in {path}: {error}") from error
    return Quotas(limits, own_limits=own_limits, shared=shared, on_degraded=on_degraded)


def _headers(windows: Sequence[Window], standings: Sequence[Standing]) -> dict[str, str]:
    """RateLimit header fields as of draft-ietf-httpapi-ratelimit-headers-10; t is when more than r may be asked."""
    told = [(window.name, standing) for window, standing in zip(windows, standings, strict=True) if window.name]
    if not told:
        return {}
    policy = (f'"{name}";q={standing.limit};w={standing.seconds}' for name, standing in told)
    state = (f'"{name}";r={standing.remaining};t={standing.wait(min(standing.remaining + 1, standing.limit))}' for name, standing in told)
    return {"ratelimit-policy": ", ".join(policy), "ratelimit": ", ".join(state)}
