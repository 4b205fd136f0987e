"""The audit log in Redis: replicas chain their records one after another, and keep them in memory while Redis is away."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from defenses.stores.breaker import Breaker
from defenses.stores.chain import GENESIS, link
from defenses.stores.deadline import within
from defenses.stores.protocol import AuditEntry, AuditRecord, ClientSummary, StoreError
from defenses.stores.summaries import summaries

BATCH = 256  # records in one call of the script
MOST_CLIENTS = 100_000  # with a summary
JITTER_SECONDS = 0.005  # most that a replica waits after another one was faster
_KEYS = [b"cloneguard:{audit}:" + name for name in (b"log", b"clients", b"busiest", b"latest", b"damaged", b"start")]
log = logging.getLogger(__name__)


class RedisAudit:
    """One chain for all replicas. Redis has no key, so each replica computes links and appends them if nobody was faster.

    Entries of calls that come together are written together. An entry that can't be written waits in memory with at most `most` others
    and counts as kept: it is chained when Redis is back, and lost if the process ends before. Of the log the newest `most_records` stay.
    """

    def __init__(self, redis: Redis, *, key: bytes, most: int, most_records: int, timeout_seconds: float) -> None:
        self._redis, self._key, self._timeout = redis, key, timeout_seconds
        self._most, self._most_records = most, most_records
        self._script = redis.register_script(Path(__file__).with_name("audit.lua").read_bytes())
        self._waiting: deque[AuditEntry] = deque()
        self._head: tuple[int, bytes] = (0, b"")  # as Redis says it: b"" where there is no record
        # What the log held, as (sequence number, link, records), if appends that nobody answered arrived after all.
        self._doubtful: list[tuple[int, bytes, int]] = []
        self._writing = asyncio.Lock()
        self._breaker = Breaker(self._write_all, what="audit records wait in memory")

    @property
    def is_behind(self) -> bool:
        """Whether records wait for Redis."""
        return self._breaker.is_open

    async def append(self, entries: Sequence[AuditEntry], *, may_wait: bool) -> None:
        """Chain entries; while Redis is away, or without waiting, keep them. Raises StoreError, and keeps none, when too many wait."""
        if len(self._waiting) + len(entries) > self._most:
            raise StoreError(f"{len(self._waiting)} audit records wait for Redis, and there is no room for {len(entries)} more")
        self._waiting.extend(entries)
        if not may_wait:
            self._breaker.open(TimeoutError("a query was not answered just now"))
        if not self._breaker.is_open:
            try:
                await self._write_waiting()
            except (RedisError, OSError, TimeoutError) as error:
                self._breaker.open(error)

    async def read(self, *, after: int, limit: int, newest: bool) -> list[AuditRecord]:
        """See QueryStore.audit."""
        start, stream = f"{after + 1}-0", _KEYS[0]
        found = await self._asked(
            self._redis.xrevrange(stream, "+", start, count=limit) if newest else self._redis.xrange(stream, start, "+", count=limit)
        )
        return [AuditRecord(int(id_.split(b"-")[0]), fields.get(b"body", b""), fields.get(b"link", b"")) for id_, fields in found]

    async def start(self) -> tuple[int, bytes]:
        """See QueryStore.audit_start."""
        sequence, own_link = await self._asked(self._redis.hmget(_KEYS[5], ["sequence", "link"]))
        return (int(sequence), own_link) if sequence and own_link and len(own_link) == len(GENESIS) else (0, GENESIS)

    async def clients(self, *, limit: int) -> list[ClientSummary]:
        """See QueryStore.clients; of the `MOST_CLIENTS` that were seen last."""
        busiest = await self._asked(self._redis.zrange(_KEYS[2], 0, limit - 1, desc=True))
        told = await self._asked(self._redis.hmget(_KEYS[1], busiest)) if busiest else []
        found = [_summary(client, counts) for client, counts in zip(busiest, told, strict=True)]
        return sorted(filter(None, found), key=lambda summary: (-summary.queries, summary.client))

    async def close(self) -> None:
        """Write what waits if Redis is there; say how many records are lost if it is not."""
        await self._breaker.close()
        try:
            await self._write_all()
        except (RedisError, OSError, TimeoutError):
            log.error("%d audit records are lost: Redis is away, and this replica ends", len(self._waiting))

    async def _asked(self, answer: Any) -> Any:
        try:
            return await within(self._timeout, answer)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(f"Redis: {error or type(error).__name__}") from error

    async def _write_waiting(self) -> None:
        """Write for a query, unless the one before it has just waited in vain."""
        async with self._writing:
            while self._waiting and not self._breaker.is_open:
                await self._write(list(islice(self._waiting, BATCH)))

    async def _write_all(self) -> None:
        async with self._writing:
            while self._waiting:
                await self._write(list(islice(self._waiting, BATCH)))

    async def _write(self, entries: Sequence[AuditEntry]) -> None:
        """Chain entries onto the record that the log is believed to end with; where it doesn't, learn what it ends with instead."""
        last, head = self._head
        values: list[bytes | str | int | float] = [last, head, MOST_CLIENTS, self._most_records, len(entries)]
        head = head if len(head) == len(GENESIS) else GENESIS  # after a record that is none of ours the chain begins anew
        for entry in entries:
            head = link(self._key, head, entry.body)
            values += [entry.body, head]
        for own in summaries(entries):
            values += [own.client, own.queries, own.flagged, own.near_duplicates, own.altered, own.first_seen, own.last_seen]
        attempt = (last + len(entries), head, len(entries))
        if attempt not in self._doubtful:  # a long outage repeats one attempt over and over
            self._doubtful.append(attempt)
        done, *found = await within(self._timeout, self._script(keys=_KEYS, args=values))
        if done:
            self._written(attempt, head=attempt[:2])
            return
        newest, newest_link = found
        if newest < last:
            log.error("the audit log ended with record %d and now ends with %d: Redis lost records", last, newest)
        arrived = [doubtful for doubtful in self._doubtful if await self._is_in_log(*doubtful[:2])]
        self._written(max(arrived, default=(0, GENESIS, 0)), head=(newest, newest_link))
        await asyncio.sleep(random.uniform(0, JITTER_SECONDS))  # noqa: S311, no secret

    def _written(self, attempt: tuple[int, bytes, int], *, head: tuple[int, bytes]) -> None:
        for _ in range(attempt[2]):
            self._waiting.popleft()
        self._head, self._doubtful = head, []

    async def _is_in_log(self, sequence: int, own_link: bytes) -> bool:
        answer: Any = self._redis.xrange(_KEYS[0], f"{sequence}-0", f"{sequence}-0")
        return any(fields.get(b"link") == own_link for _, fields in await within(self._timeout, answer))


def _summary(client: bytes, told: bytes | None) -> ClientSummary | None:
    """One client's summary as the script keeps it; None where it was cut off meanwhile, or is none of ours."""
    try:
        *counts, first_seen, last_seen = orjson.loads(told or b"")
        queries, flagged, near_duplicates, altered = map(int, counts)
        return ClientSummary(client.decode(), queries, flagged, near_duplicates, altered, float(first_seen), float(last_seen))
    except (ValueError, TypeError):
        return None
