"""A Redis that is dead, stopped, empty, full, read-only or spoilt: answers go on, and afterwards replicas agree again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from defenses.stores.chain import verify
from defenses.stores.protocol import AuditEntry, QueryStore, Sighting, StoreError
from defenses.stores.redis_store import RedisStore
from defenses.stores.replica import Replica
from tests.defenses.stores.replicas import KEY, replicas, until
from tests.defenses.stores.rule import ones, sighting
from tests.redis_server import RunningRedis

IMPATIENT = 0.3  # seconds: for servers that don't answer at all

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningRedis]:
    """A Redis to be broken."""
    with RunningRedis(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def store(server: RunningRedis) -> AsyncIterator[QueryStore]:
    """A store on that Redis that gives up soon."""
    async with replicas(server, 1, timeout_seconds=IMPATIENT) as (one,):
        yield one


def founders(count: int) -> list[Sighting]:
    codes = np.random.default_rng(9).integers(0, 2**63, count).tolist()
    return [sighting(n, perceptual=code, flagged=n % 3 == 0, client=f"client-{n % 7}") for n, code in enumerate(codes)]


def entries(*numbers: int) -> list[AuditEntry]:
    return [AuditEntry("anna", float(n), flagged=False, near_duplicate=False, altered=False, body=b"%d" % n) for n in numbers]


async def ask(store: QueryStore, sightings: list[Sighting]) -> list[tuple[object, ...]]:
    """What decides about the answers: the founders' facts, without what their clients had done before."""
    homes = [m.neighbourhood for at in range(0, len(sightings), 50) for m in await store.find_or_found(sightings[at : at + 50])]
    return [(home.id, home.founder, home.flagged, home.top_classes) for home in homes]


async def back(store: QueryStore) -> None:
    """Wait until the store has noticed that Redis is back."""
    await until(lambda: not store.degraded)


async def test_a_dead_redis_changes_no_answer(server: RunningRedis, store: QueryStore) -> None:
    """Through kill -9 and restart 1,000 founders and 200 joiners are told the same, and the log has lost nothing."""
    old = founders(1000)
    joiners = [sighting(5000 + n, perceptual=int.from_bytes(old[n].perceptual) ^ 7, client="ben") for n in range(200)]
    before = await ask(store, [*old, *joiners])
    server.kill()
    assert await ask(store, [*old, *joiners]) == before
    assert store.degraded
    server.restart()
    await back(store)
    assert await ask(store, [*old, *joiners]) == before
    assert await store.neighbourhoods() == 1000


async def test_who_waited_behind_a_call_that_was_in_vain_waits_no_second_time(server: RunningRedis) -> None:
    """A stopped Redis costs the first call its whole timeout; then nobody waits."""
    loop, timeout = asyncio.get_running_loop(), 3.0
    async with replicas(server, 1, timeout_seconds=timeout) as (store,):
        server.stop()
        try:
            waits = []
            for digest in range(3):
                began = loop.time()
                await store.find_or_found([sighting(digest)])
                waits.append(loop.time() - began)
        finally:
            server.go_on()
    assert timeout <= waits[0] < 2 * timeout
    assert max(waits[1:]) < 0.5 * timeout


async def test_records_that_are_appended_behind_one_that_was_in_vain_wait_no_second_time(server: RunningRedis) -> None:
    """Of several at once each waits as long as the first; all are in the log afterwards."""
    loop, timeout = asyncio.get_running_loop(), 2.0
    async with replicas(server, 1, timeout_seconds=timeout) as (store,):
        await store.append_audit(entries(1))
        server.stop()
        try:
            began = loop.time()
            await asyncio.gather(*(store.append_audit(entries(number)) for number in range(2, 6)))
            waited = loop.time() - began
        finally:
            server.go_on()
        assert timeout <= waited < 2 * timeout
        await back(store)
        assert sorted(int(record.body) for record in await store.audit()) == [1, 2, 3, 4, 5]


async def test_identical_and_similar_pixels_agree_while_redis_is_away(server: RunningRedis, store: QueryStore) -> None:
    """What is founded without Redis is a neighbourhood for its near-duplicates too, and forgotten afterwards."""
    await store.find_or_found([sighting(1)])
    server.kill()
    new, near, same = await store.find_or_found([sighting(2, perceptual=ones(30)), sighting(3, perceptual=ones(31)), sighting(2)])
    again, *_ = await store.find_or_found([sighting(2, perceptual=ones(30))])
    assert [match.neighbourhood for match in (near, same, again)] == [new.neighbourhood] * 3
    assert (new.channel, near.channel, same.channel, again.channel) == ("", "perceptual", "digest", "digest")
    assert (again.record.queries, near.record.queries) == (2, 2)
    server.restart()
    await back(store)
    (anew,) = await store.find_or_found([sighting(3, perceptual=ones(31))])
    assert anew.channel == ""


async def test_an_emptied_redis_begins_a_new_index(server: RunningRedis, store: QueryStore) -> None:
    """A founder that asks again founds again with the same facts; a joiner that comes before its founder founds apart."""
    old = founders(1000)
    joiners = [sighting(5000 + n, perceptual=int.from_bytes(old[n].perceptual) ^ 7, client="ben") for n in range(200)]
    before = await ask(store, [*old, *joiners])
    server.restart(empty=True)
    assert await ask(store, old[100:]) == before[100:1000]
    await back(store)
    early = await ask(store, joiners[:100])
    assert [home[0] for home in early] == [joiner.digest for joiner in joiners[:100]]
    assert await ask(store, [*old[100:], *joiners[100:]]) == [*before[100:1000], *before[1100:]]
    assert await store.neighbourhoods() == 1000


async def test_a_stopped_redis_is_asked_once_and_then_left_alone(server: RunningRedis, store: QueryStore) -> None:
    """SIGSTOP: one call waits for the timeout, those after it don't ask; SIGCONT: it is asked again."""
    old = founders(100)
    before = await ask(store, old)
    server.stop()
    assert await ask(store, old[:50]) == before[:50]
    assert store.degraded
    async with asyncio.timeout(20):
        for _ in range(50):
            assert await ask(store, old) == before
    server.go_on()
    await back(store)
    assert await ask(store, old) == before


async def test_records_of_an_outage_are_chained_once_and_in_order(server: RunningRedis, store: QueryStore) -> None:
    """Appends that nobody answered may have arrived: whether they did is found out, and none is written twice."""
    await store.append_audit(entries(1, 2))
    server.stop()
    await store.append_audit(entries(3))
    await store.append_audit(entries(4, 5))
    assert store.degraded
    server.go_on()
    await back(store)
    await store.append_audit(entries(6))
    records = await store.audit()
    assert [record.body for record in records] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert verify(KEY, records) is None


async def test_what_has_no_room_is_refused_whole_and_the_rest_is_kept(server: RunningRedis) -> None:
    """A full buffer raises StoreError and keeps none of that call: the caller counts exactly what it gave."""
    async with replicas(server, 1, audit_buffer=4) as (store,):
        server.kill()
        await store.append_audit(entries(1, 2, 3))
        with pytest.raises(StoreError, match="no room for 2 more"):
            await store.append_audit(entries(4, 5))
        await store.append_audit(entries(6))
        server.restart()
        await back(store)
        records = await store.audit()
        assert [record.body for record in records] == [b"1", b"2", b"3", b"6"]
        assert verify(KEY, records) is None


@pytest.mark.parametrize("numbers", [range(300), [0] * 300], ids=["many pictures", "one picture"])
async def test_the_local_view_is_bounded(monkeypatch: pytest.MonkeyPatch, numbers: list[int]) -> None:
    """However many pictures join one neighbourhood in an outage, and however many clients send one picture."""
    monkeypatch.setattr("defenses.stores.replica.MOST_PROVISIONAL", 50)
    replica = Replica(perceptual_radius=6, embedding_radius=0)
    for client, number in enumerate(numbers):
        replica.answer_alone([sighting(number, perceptual=0, client=f"client-{client}")])
        assert max(len(replica._seen), len(replica._local_records)) <= 51


async def test_an_attempt_that_is_repeated_is_looked_for_once(server: RunningRedis, store: QueryStore) -> None:
    """A record that waits through a long outage is tried twice a second; what might have arrived is still one attempt."""
    assert isinstance(store, RedisStore)
    server.kill()
    await store.append_audit(entries(1))
    for _ in range(20):
        with pytest.raises((redis.RedisError, OSError, TimeoutError)):
            await store._audit._write_all()
    assert len(store._audit._doubtful) == 1


async def test_a_service_may_start_without_redis(server: RunningRedis) -> None:
    """It begins with the local view, and joins the others when Redis comes."""
    async with replicas(server, 1) as (first,):
        await first.find_or_found([sighting(1)])
    server.kill()
    async with replicas(server, 1) as (store,):
        assert store.degraded
        (match,) = await store.find_or_found([sighting(2, perceptual=ones(2))])
        assert match.channel == ""
        server.restart()
        await back(store)
        (match,) = await store.find_or_found([sighting(2, perceptual=ones(2))])
        assert (match.channel, match.neighbourhood.id[-1]) == ("perceptual", 1)


REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "out of memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_a_redis_that_refuses_writes_is_away(server: RunningRedis, store: QueryStore, what: str) -> None:
    """Nothing is written by halves; founders are told the same before, meanwhile and afterwards."""
    old = founders(100)
    before = await ask(store, old[:50])
    refuse, accept = REFUSALS[what]
    with server.client() as client:
        client.execute_command(*refuse)
        for _ in range(2):
            assert await ask(store, old[:50]) == before
        await ask(store, old[50:])
        await store.append_audit(entries(1))
        assert store.degraded
        client.execute_command(*accept)
        await back(store)
        assert await store.neighbourhoods() == 50
        assert await ask(store, old[:50]) == before
        assert [record.body for record in await store.audit()] == [b"1"]


def spoil(kind: str, part: str) -> Callable[[redis.Redis], object]:
    def do(client: redis.Redis) -> object:
        for key in client.keys(f"*{part}*") or ["cloneguard:{audit}:start"]:
            client.delete(key)
            client.rpush(key, "garbage") if kind == "a list" else client.set(key, "garbage")
        return None

    return do


LOG = "cloneguard:{audit}:log"
DAMAGE: dict[str, Callable[[redis.Redis], object]] = {
    f"{part} is {kind}": spoil(kind, part)
    for kind in ("a list", "a text")
    for part in (
        ":founders",
        ":meta",
        ":digest:",
        ":record:",
        "{audit}:log",
        "{audit}:clients",
        "{audit}:busiest",
        "{audit}:latest",
        "{audit}:start",
    )
}
DAMAGE |= {
    "an endless log": lambda client: client.hset(client.keys("*:meta")[0], mapping={"last": "1e300"}),
    "a log of no length": lambda client: client.hset(client.keys("*:meta")[0], mapping={"first": "nan", "last": "nan"}),
    "half a founder": lambda client: client.hset(client.keys("*:meta")[0], mapping={"last": "99.5"}),
    "garbage records": lambda client: client.hset(client.keys("*:founders")[0], mapping={str(n): b"\xff" * 200 for n in range(1, 20)}),
    "a foreign epoch": lambda client: client.hset(client.keys("*:meta")[0], mapping={"epoch": "elsewhere"}),
    "no meta": lambda client: client.delete(*client.keys("*:meta")),
    "no founders": lambda client: client.delete(*client.keys("*:founders")),
    "no newest audit record": lambda client: client.eval(
        "redis.call('XDEL', KEYS[1], redis.call('XREVRANGE', KEYS[1], '+', '-')[1][1])", 1, LOG
    ),
    "no audit records": lambda client: client.xtrim(LOG, maxlen=0, approximate=False),
    "a foreign audit record": lambda client: client.xadd(LOG, {"say": "hello"}),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_garbage_in_our_keys_is_no_error(empty_redis: RunningRedis, what: str) -> None:
    """Founders are told the same before and after, on the replica that was there and on a new one, and nothing stays degraded."""
    old = founders(100)
    async with replicas(empty_redis, 1) as (store,):
        before = await ask(store, old)
        await store.append_audit(entries(1))
        with empty_redis.client() as client:
            DAMAGE[what](client)
        assert await ask(store, old) == before
        await store.append_audit(entries(2))
        await back(store)
        assert await ask(store, old) == before
        (near,) = await ask(store, [sighting(7000, perceptual=int.from_bytes(old[70].perceptual) ^ 1)])
        assert near == before[70]
        async with replicas(empty_redis, 1) as (other,):
            assert await ask(other, old) == before
            assert not other.degraded
        assert [record.body for record in await store.audit(newest=True, limit=1)] == [b"2"]
        assert [summary.client for summary in await store.clients()] in ([], ["anna"])
