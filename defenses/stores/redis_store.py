"""The store for replicas: Redis keeps the log of founders, every replica searches its own copy, one script decides."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import TimeoutError as LateError

from defenses.stores.breaker import Breaker
from defenses.stores.deadline import within
from defenses.stores.founders import AT_ONCE
from defenses.stores.protocol import FORGETTING, AuditEntry, AuditRecord, ClientSummary, Match, Sighting, StoreError
from defenses.stores.redis_audit import RedisAudit
from defenses.stores.redis_url import NOT_A_REDIS_URL
from defenses.stores.replica import Question, Replica

FORMAT = 1  # of records and keys; another one has other keys, so that two releases never read each other's
CONNECTIONS = 16
PAGE = 1000  # founders read at once
LONGEST_TAIL = 128  # founders that the script compares with; a replica that is further behind reads first
ROUNDS = 4  # of reading and asking again in one call
BACKSTOP_SECONDS = 1.0
OPENING_SECONDS = 2.0  # for a Redis that is there and does not answer in time

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def key_prefix(index: str) -> bytes:
    """What all keys of an index begin with: in braces is what a cluster chooses the shard by."""
    return b"cloneguard:{%s}:" % hashlib.sha256(f"{FORMAT}:{index}".encode()).hexdigest()[:16].encode()


class RedisStore:
    """A QueryStore for many replicas on one Redis (6.2 or newer, or Valkey; in a cluster an index lives on one shard).

    A call searches the replica's copy of the founders, and one script decides with what other replicas founded meanwhile. It waits
    `timeout_seconds` at most, and not at all while the breaker is open: then the local view answers, `degraded` is true, and what was
    founded is forgotten when Redis is back. Redis's own `maxmemory-policy` has to be `noeviction`.
    """

    def __init__(
        self, url: str, *, index: str, audit_key: bytes, perceptual_radius: int, embedding_radius: int, timeout_seconds: float,
        retention_seconds: float, most_neighbourhoods: int, audit_buffer: int, most_audit_records: int,
    ) -> None:  # fmt: skip
        backstop = BACKSTOP_SECONDS + timeout_seconds  # `within` ends a wait long before: it knows when this process itself was late
        options = {"socket_timeout": backstop, "socket_connect_timeout": backstop, "retry": Retry(NoBackoff(), 0)}
        try:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=CONNECTIONS, timeout=backstop, protocol=2, driver_info=None, **options
            )
        except (ValueError, TypeError):  # what it says may repeat the URL, and with it a password
            raise StoreError(NOT_A_REDIS_URL) from None
        self._redis: Redis = Redis(connection_pool=pool)
        self._find_or_found = self._redis.register_script(Path(__file__).with_name("founders.lua").read_bytes())
        self._prefix = key_prefix(index)
        self._radii = (perceptual_radius, embedding_radius)
        self._timeout, self._retention, self._most = timeout_seconds, retention_seconds, most_neighbourhoods
        self._replica = Replica(perceptual_radius=perceptual_radius, embedding_radius=embedding_radius)
        self._reading = asyncio.Lock()
        self._breaker = Breaker(self._catch_up, what="answers come from the local view")
        self._audit = RedisAudit(
            self._redis, key=audit_key, most=audit_buffer, most_records=most_audit_records, timeout_seconds=timeout_seconds
        )
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @classmethod
    async def opened(cls, url: str, **options: Any) -> Self:
        """Connect, and copy the founders. Where Redis is away it begins with the local view; refused credentials are a StoreError."""
        store = cls(url, **options)
        try:
            await store._catch_up_patiently()
        except (AuthenticationError, NoPermissionError) as error:
            await store.close()
            raise StoreError(f"Redis: {error}") from None
        except (RedisError, OSError, TimeoutError) as error:
            store._breaker.open(error)
        return store

    @property
    def degraded(self) -> bool:
        """See QueryStore."""
        return self._breaker.is_open or self._audit.is_behind

    async def find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        """See QueryStore; never an error because of Redis: the local view answers instead."""
        self._check_open()
        if not sightings:
            return []
        if not self._breaker.is_open:
            try:
                return await self._ask(sightings)
            except (RedisError, OSError, TimeoutError) as error:
                self._breaker.open(error)
        return await self._run(lambda: self._replica.answer_alone(sightings))

    async def neighbourhoods(self) -> int:
        """See QueryStore; what this replica knows."""
        self._check_open()
        return await self._run(lambda: len(self._replica))

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """See QueryStore; while Redis is away entries are kept in memory, and chained when it is back."""
        self._check_open()
        await self._audit.append(entries, may_wait=not self._breaker.is_open)

    async def audit(self, *, after: int = 0, limit: int = 100, newest: bool = False) -> list[AuditRecord]:
        """See QueryStore."""
        self._check_open()
        return await self._audit.read(after=after, limit=limit, newest=newest)

    async def audit_start(self) -> tuple[int, bytes]:
        """See QueryStore."""
        self._check_open()
        return await self._audit.start()

    async def clients(self, *, limit: int = 100) -> list[ClientSummary]:
        """See QueryStore."""
        self._check_open()
        return await self._audit.clients(limit=limit)

    async def close(self) -> None:
        """See QueryStore; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await self._breaker.close()
            await self._audit.close()
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
            self._thread.shutdown()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("this store is closed")

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _catch_up(self) -> None:
        """Read founders until a call without sightings finds nothing missing; it writes, so that a full Redis shows."""
        while await self._evaluate(await self._run(lambda: self._replica.ask([]))) is None:
            pass

    async def _catch_up_patiently(self) -> None:
        """At the start nobody waits for an answer, and a machine on which much is starting is slow."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + OPENING_SECONDS
        while True:
            try:
                return await self._catch_up()
            except (TimeoutError, LateError):
                if loop.time() > give_up:
                    raise

    async def _ask(self, sightings: Sequence[Sighting]) -> list[Match]:
        for _ in range(ROUNDS):
            question = await self._run(lambda: self._replica.ask(sightings))
            matches = await self._evaluate(question, sightings)
            if matches is not None:
                return matches
        raise TimeoutError("the copy of the founders can't keep up with what other replicas found")

    async def _evaluate(self, question: Question, sightings: Sequence[Sighting] = ()) -> list[Match] | None:
        """Run the script and take over the tail; where the copy is too old to decide with, read what it lacks and return None."""
        keys = [self._key("founders"), self._key("meta")]
        keys += [self._prefix + b"digest:" + sighting.digest for sighting in sightings]
        keys += [self._key(f"record:{client}") for client in question.clients]
        settings: list[bytes | str | int | float] = [
            question.epoch, secrets.token_hex(8), question.last, question.check, *self._radii, LONGEST_TAIL, max(1, int(self._retention)),
            self._most, self._retention, AT_ONCE, FORGETTING, len(sightings), len(question.clients),
        ]  # fmt: skip
        reply = await within(self._timeout, self._find_or_found(keys=keys, args=[*settings, *question.sightings]))
        decided, epoch, first, last, check, *rest = reply
        if not decided:
            await self._read(epoch, first, last, check, stale=question if rest[0] else None)
            return None
        start, tail, told = rest

        def take() -> list[Match]:
            self._replica.add(epoch, start, tail, check=check, first=first)
            return self._replica.answer(sightings, told)

        return await self._run(take)

    async def _read(self, epoch: bytes, first: int, last: int, check: bytes, *, stale: Question | None) -> None:
        """Copy founders up to `last`, a page at a time; one reader is enough. `stale` is what was asked with a copy of something else."""
        async with self._reading:
            replica = self._replica
            if replica.epoch != epoch or (stale and (stale.last, stale.check) == (replica.last, replica.check)):
                await self._run(lambda: replica.start_over(epoch))
            await self._run(lambda: replica.forget(first))
            while replica.last < last:
                start = max(replica.last + 1, first)
                stop = min(start + PAGE, last + 1)
                if start >= stop:
                    break
                page: Any = self._redis.hmget(self._key("founders"), [str(number) for number in range(start, stop)])
                records = await within(self._timeout, page)
                newest = check if stop > last else (records[-1] or b"")[12:24]
                await self._run(partial(replica.add, epoch, start, records, check=newest, first=first))

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode()
