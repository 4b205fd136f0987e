"""F3: Redis forgets, is tampered with, is full, and refuses to write."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abuse import FULL
from tests.abuse.audit import records_by_request
from tests.abuse.images import near_duplicate
from tests.abuse.race import Told, asked
from tests.abuse.test_lost_redis import seconds_until
from tests.cluster import PATIENT, Cluster, running_cluster
from tests.server import free_port

PICTURES, FOUNDERS, COPIES = (1100, 1000, 300) if FULL else (40, 30, 15)
# What hangs on what the founder had done before can't outlive the record of it.
OPTIONS = ("--set", "suspicion.mode=shadow", "--set", "misrecognition.rate=0.3")


def emptied(cluster: Cluster) -> None:
    """A restart without the file."""
    cluster.redis.restart(empty=True)


def tampered(cluster: Cluster) -> None:
    """Of all keys a third has another type, a third is text, and the rest holds garbage where it held values."""
    draw = random.Random(3)
    with cluster.redis.client() as client:
        for number, key in enumerate(sorted(client.scan_iter(count=1000))):
            kind = client.type(key)
            if number % 3 == 0:
                client.delete(key)
                client.rpush(key, "of another type")
            elif kind == b"hash" and number % 3 == 1:
                client.hset(key, mapping=dict.fromkeys(client.hkeys(key), draw.randbytes(40)))
            else:
                client.delete(key)
                client.set(key, draw.randbytes(40))


def full(cluster: Cluster) -> None:
    """No memory for another write."""
    with cluster.redis.client() as client:
        client.config_set("maxmemory", "1mb")


def read_only(cluster: Cluster) -> None:
    """A replica of nobody who answers: it takes no writes."""
    with cluster.redis.client() as client:
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", str(free_port()))


def healed(cluster: Cluster) -> None:
    """Its own master again."""
    with cluster.redis.client() as client:
        client.replicaof("NO", "ONE")


DAMAGES: tuple[Callable[[Cluster], None], ...] = (emptied, tampered, full, read_only, healed)


@pytest.mark.abuse
def test_founders_keep_their_answers_whatever_happens_to_redis(tmp_path: Path, figure: Callable[..., None]) -> None:
    """After each damage every picture that founded its neighbourhood is told what it was told before; nothing is a 5xx.

    Pictures that had joined another's may found anew: how many kept their answer is reported.
    """
    founders = [near_duplicate(seed, 0) for seed in range(PICTURES)]
    joiners = [near_duplicate(seed, 1) for seed in range(COPIES)]
    said: list[str] = []
    with running_cluster(tmp_path, *OPTIONS, *PATIENT, replicas=1) as cluster:
        (server,) = cluster.replicas
        before = asked(server, founders), asked(server, joiners)
        log = records_by_request(server)
        founded = ["near_duplicates" not in log[one.id]["findings"] for one in before[0]]
        assert sum(founded) >= FOUNDERS
        for damage in DAMAGES:
            damage(cluster)
            if damage in {emptied, healed}:
                seconds_until(server, degraded=False)
            after = asked(server, founders), asked(server, joiners)  # asked() takes 200 only
            seconds_until(server, degraded=damage in {full, read_only})  # a connection that the restart broke is noticed when it is used
            kept = [same(*pair) for pair in zip(before[0], after[0], strict=True)]
            assert [seed for seed in range(PICTURES) if founded[seed] and not kept[seed]] == []
            joined = sum(same(*pair) for pair in zip(before[1], after[1], strict=True))
            others = [kept[seed] for seed in range(PICTURES) if not founded[seed]]
            said.append(f"{damage.__name__} {joined + sum(others)} of {COPIES + len(others)}")
        assert "Traceback" not in server.log_text()
    figure(f"0 5xx; founders {sum(founded):,} of {sum(founded):,} each time; joiners that kept their answer: {', '.join(said)}")


def same(one: Told, other: Told) -> bool:
    """Whether both say the same."""
    return one.entries == other.entries
