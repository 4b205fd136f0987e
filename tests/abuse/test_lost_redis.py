"""F1: Redis dies under load and comes back."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.load import open_loop
from tests.abuse import FULL
from tests.abuse.load import on_one_core
from tests.cluster import running_cluster
from tests.server import RunningServer

BASELINE_SECONDS, BEFORE_SECONDS, AWAY_SECONDS, AFTER_SECONDS = 10.0, 5.0, 20.0, 10.0


def seconds_until(server: RunningServer, *, degraded: bool, patience: float = 90.0) -> float:
    """How long it takes until the gauge says so (s)."""
    began = time.monotonic()
    while server.metric("cloneguard_degraded", component="store") != degraded:
        assert time.monotonic() - began < patience
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.abuse
@pytest.mark.skipif(not FULL, reason="tests/end_to_end/test_cluster.py is the short form")
def test_redis_dies_under_load_and_nobody_notices(tmp_path: Path, capacity: float, figure: Callable[..., None]) -> None:
    """Every request is answered while Redis is away; the gauge says so, and no longer when it is back."""
    with running_cluster(tmp_path, replicas=1) as cluster:
        (server,) = cluster.replicas
        baseline = on_one_core(open_loop, server.port, rate=capacity / 2, seconds=BASELINE_SECONDS)
        with ThreadPoolExecutor(1) as pool:
            seconds = BEFORE_SECONDS + AWAY_SECONDS + AFTER_SECONDS
            under_way = pool.submit(on_one_core, open_loop, server.port, rate=capacity / 2, seconds=seconds)
            time.sleep(BEFORE_SECONDS)
            cluster.redis.kill()
            up = seconds_until(server, degraded=True)
            time.sleep(AWAY_SECONDS - up)
            cluster.redis.restart()
            cleared = seconds_until(server, degraded=False)
            load = under_way.result()
        assert "Traceback" not in server.log_text()
    assert load.statuses.keys() == {200}
    assert not load.dropped
    before, after = baseline.latency_ms(99), load.latency_ms(99)
    figure(f"{load.requests:,} requests, 0 5xx; p99 {after:.0f} ms, baseline {before:.0f} ms", met=after <= before + 60)
    figure(f"gauge up after {up:.1f} s, cleared {cleared:.1f} s after return", met=up <= 2 and cleared <= 5)
