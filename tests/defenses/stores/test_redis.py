"""What only the Redis store promises while Redis is there: replicas agree, catch up, and fit a cluster."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.crc import key_slot

from app.auditing import check
from defenses.stores import open_store
from defenses.stores.chain import GENESIS, verify
from defenses.stores.protocol import AuditEntry, StoreError
from tests.defenses.stores.replicas import KEY, replicas, until
from tests.defenses.stores.rule import Rule, crowd, ones, sighting
from tests.redis_server import RunningRedis

pytestmark = pytest.mark.anyio


def event(client: str, number: int) -> AuditEntry:
    return AuditEntry(client, float(number), flagged=False, near_duplicate=False, altered=False, body=b"%s %d" % (client.encode(), number))


async def test_both_backends_answer_the_same_traffic_alike(empty_redis: RunningRedis, tmp_path: Path) -> None:
    """Founders, members, distances, records and what is forgotten: every match of a replayed crowd is equal."""
    rng = np.random.default_rng(3)
    traffic = list(crowd(rng, size=1500))
    limits: dict[str, Any] = {"most_neighbourhoods": 40, "retention_seconds": 900_000.0}
    embedded = await open_store(f"sqlite:///{tmp_path}/q.db", index="cifar10@1", audit_key=KEY, embedding_radius=12, **limits)
    async with replicas(empty_redis, 1, **limits) as (shared,):
        while traffic:
            size = int(rng.integers(1, 40))
            call, traffic = traffic[:size], traffic[size:]
            assert await shared.find_or_found(call) == await embedded.find_or_found(call)
            assert await shared.neighbourhoods() == await embedded.neighbourhoods()
        assert not shared.degraded
    await embedded.close()


async def test_replicas_that_take_turns_follow_the_rule(empty_redis: RunningRedis) -> None:
    """Whatever a replica founds, the next one's call knows: as if they were one store."""
    rng = np.random.default_rng(4)
    traffic = list(crowd(rng, size=600))
    rule = Rule(perceptual_radius=6, embedding_radius=12)
    async with replicas(empty_redis, 3) as stores:
        while traffic:
            size = int(rng.integers(1, 20))
            call, traffic = traffic[:size], traffic[size:]
            assert await stores[rng.integers(3)].find_or_found(call) == [rule.find_or_found(new) for new in call]


async def test_near_duplicates_raced_at_two_replicas_agree(empty_redis: RunningRedis) -> None:
    """200 groups of 5 variants, all asked at once from 10 accounts: one neighbourhood a group, on every replica."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 2**63, 200).tolist()
    variants = [
        sighting(group * 8 + variant, perceptual=code ^ (1 << variant), client=f"account-{rng.integers(10)}")
        for group, code in enumerate(codes)
        for variant in range(5)
    ]
    rng.shuffle(variants)
    calls = [variants[at : at + 10] for at in range(0, len(variants), 10)]
    async with replicas(empty_redis, 2) as stores:
        answers = await asyncio.gather(*(stores[at % 2].find_or_found(call) for at, call in enumerate(calls)))
        homes: dict[int, set[bytes]] = {}
        for call, matches in zip(calls, answers, strict=True):
            for new, match in zip(call, matches, strict=True):
                homes.setdefault(int.from_bytes(new.digest) // 8, set()).add(match.neighbourhood.id)
        assert len(homes) == 200
        assert {len(found) for found in homes.values()} == {1}
        again = [await store.find_or_found(variants) for store in stores]
        assert [m.neighbourhood for m in again[0]] == [m.neighbourhood for m in again[1]]
        assert {await store.neighbourhoods() for store in stores} == {200}


async def test_a_replica_that_was_idle_reads_what_it_missed(empty_redis: RunningRedis) -> None:
    """Thousands of founders behind, the next call reads them first, and joins; nothing is degraded meanwhile."""
    codes = np.random.default_rng(6).integers(0, 2**63, 3000).tolist()
    founders = [sighting(n, perceptual=code) for n, code in enumerate(codes)]
    async with replicas(empty_redis, 2) as (busy, idle):
        for at in range(0, 3000, 100):
            await busy.find_or_found(founders[at : at + 100])
        near = [sighting(10_000 + n, perceptual=code ^ 1) for n, code in enumerate(codes[::100])]
        matches = await idle.find_or_found(near)
        assert [match.neighbourhood.id for match in matches] == [founder.digest for founder in founders[::100]]
        assert await idle.neighbourhoods() == 3000
        assert not idle.degraded


async def test_a_replica_knows_a_log_that_is_not_the_one_it_copied(empty_redis: RunningRedis) -> None:
    """A Redis that lost its newest founders and got as many others is noticed, and copied anew."""
    async with replicas(empty_redis, 2) as (one, other):
        await one.find_or_found([sighting(1), sighting(2, perceptual=ones(30))])
        await other.find_or_found([sighting(1)])
        with empty_redis.client() as client:
            (founders,) = client.keys("*:founders")
            meta = founders.replace(b":founders", b":meta")
            client.hdel(founders, "2")
            first = client.hget(founders, "1")
            client.hset(meta, mapping={"last": 1, "check": first[12:24]})
        await one.find_or_found([sighting(3, perceptual=ones(50))])
        (same,) = await other.find_or_found([sighting(4, perceptual=ones(49))])
        assert same.neighbourhood.id[-1] == 3
        (anew,) = await other.find_or_found([sighting(5, perceptual=ones(31))])
        assert anew.channel == ""
        assert await other.neighbourhoods() == 3


async def test_keys_of_one_index_share_a_slot(empty_redis: RunningRedis) -> None:
    """An index lives on one shard of a cluster, and the audit log on one."""
    async with replicas(empty_redis, 1) as (store,):
        await store.find_or_found(list(crowd(np.random.default_rng(7), size=50)))
        await store.append_audit([event("anna", 1)])
    with empty_redis.client() as client:
        keys = client.keys("*")
    audit = [key for key in keys if key.startswith(b"cloneguard:{audit}:")]
    assert len(audit) == 4
    assert len({key_slot(key) for key in audit}) == 1
    assert len({key_slot(key) for key in keys if key not in audit}) == 1
    assert len(keys) > 40


async def test_a_real_cluster_takes_the_scripts(tmp_path: Path) -> None:
    """A node in cluster mode refuses scripts whose keys are not of one slot."""
    with RunningRedis(tmp_path, "--cluster-enabled", "yes") as node:
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        async with replicas(node, 2) as stores:
            traffic = list(crowd(np.random.default_rng(8), size=100))
            matches = [await store.find_or_found(traffic) for store in stores]
            assert {match.channel for match in matches[1]} == {"digest"}
            await stores[0].append_audit([event("anna", 1)])
            assert verify(KEY, await stores[1].audit()) is None
            assert not any(store.degraded for store in stores)


async def test_the_audit_log_of_two_replicas_is_one_chain(empty_redis: RunningRedis) -> None:
    """Records that are appended at once from two replicas interleave, each in its own order, and verify."""
    async with replicas(empty_redis, 2) as stores:
        await asyncio.gather(*(store.append_audit([event(f"r{r}", n)]) for n in range(60) for r, store in enumerate(stores)))
        records = await stores[0].audit(limit=1000)
        assert verify(KEY, records) is None
        assert await stores[1].audit(limit=1000) == records
        for r in range(2):
            own = [record.body for record in records if record.body.startswith(b"r%d" % r)]
            assert own == [b"r%d %d" % (r, n) for n in range(60)]
        assert [(summary.client, summary.queries) for summary in await stores[0].clients()] == [("r0", 60), ("r1", 60)]


async def test_the_oldest_records_go_and_the_rest_can_be_checked(empty_redis: RunningRedis) -> None:
    """Redis keeps the newest records; the link before them is kept too, so that the chain verifies from there."""
    async with replicas(empty_redis, 1, most_audit_records=20) as (store,):
        assert await store.audit_start() == (0, GENESIS)
        for n in range(10):
            await store.append_audit([event("anna", 5 * n + k) for k in range(5)])
        records = await store.audit(limit=1000)
        after, previous = await store.audit_start()
        assert ([record.sequence for record in records], after) == (list(range(31, 51)), 30)
        assert verify(KEY, records, previous, after=after) is None
        assert verify(KEY, records[1:], previous, after=after) == 31
        assert await check(empty_redis.url, key=KEY) == (20, None)


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:port/0", "redis://:hunter2@127.0.0.1:1/0?socket_timeout=soon"])
async def test_a_bad_url_is_one_line_without_its_password(url: str) -> None:
    """What the driver says about a URL may repeat it; what the store says doesn't."""
    with pytest.raises(StoreError, match=r"\A[^\n]+\Z") as refusal:
        await open_store(url, index="cifar10@1", audit_key=KEY)
    assert "hunter2" not in str(refusal.value)


async def test_a_wrong_password_is_refused_at_the_start(tmp_path: Path) -> None:
    """A server that does not let us in will not be back in a moment: better no start than an empty local view."""
    with RunningRedis(tmp_path) as running:
        with running.client() as client:
            client.config_set("requirepass", "right")
        url = running.url.replace("redis://", "redis://:hunter2@")
        with pytest.raises(StoreError, match="Redis") as refusal:
            await open_store(url, index="cifar10@1", audit_key=KEY, timeout_seconds=5.0)
        assert "hunter2" not in str(refusal.value)
