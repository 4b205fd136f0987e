"""L2: three times what the server can answer."""

import os
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from benchmarks.load import Load, Loop, Target, closed_loop, in_own_process, open_loop
from tests.abuse import FULL
from tests.abuse.images import encode, picture
from tests.server import RunningServer

SECONDS = 60.0 if FULL else 6.0
BODIES = [encode(picture(seed, size=32), "JPEG") for seed in range(256)]
CONNECTIONS = 1000


class Probe(threading.Thread):
    """Asks for one picture and for health and metrics, again and again, and remembers the answers and how long they took (s)."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__()
        self._server = server
        self.done = threading.Event()
        self.refusals: list[tuple[httpx.Response, float]] = []
        self.others: set[int] = set()
        self.health: list[tuple[int, float]] = []

    def run(self) -> None:
        """Ask until done, twenty times a second."""
        pages = (f"{self._server.url}/healthz", f"{self._server.url}/readyz", f"{self._server.admin_url}/metrics")
        with httpx.Client(timeout=30) as client:
            while not self.done.wait(0.05):
                began = time.perf_counter()
                response = client.post(f"{self._server.url}/predict", content=BODIES[0], headers={"Content-Type": "image/jpeg"})
                if response.status_code == 503:
                    self.refusals.append((response, time.perf_counter() - began))
                else:
                    self.others.add(response.status_code)
                for page in pages:
                    began = time.perf_counter()
                    self.health.append((client.get(page).status_code, time.perf_counter() - began))


def on_one_core(loop: Loop, server: RunningServer, **options: float) -> Load:
    """Run a load from a process that is pinned to one core, which it inherits from this thread."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        return in_own_process(loop, Target(server.port), BODIES, **options)
    finally:
        os.sched_setaffinity(0, cores)


def highest_rate(server: RunningServer) -> float:
    """R0: the highest open-loop rate (1/s) with all answered and p99 <= 250 ms; at short length, closed-loop throughput."""
    rate = on_one_core(closed_loop, server, concurrency=16, seconds=5.0 if FULL else 2.0).rate
    while FULL:
        load = on_one_core(open_loop, server, rate=rate, seconds=10.0)
        if load.statuses.keys() == {200} and not load.dropped and load.latency_ms(99) <= 250:
            break
        rate *= 0.93
    return rate


@pytest.mark.abuse
def test_overload_is_refused_quickly_and_politely(start: Callable[..., RunningServer]) -> None:
    """At three times R0 the excess gets 503 with Retry-After and nothing else fails; health and metrics stay reachable.

    Full length also asserts figures: goodput >= 85% of R0, refusals' p99 <= 100 ms, health and metrics < 250 ms throughout.
    """
    server = start()
    rate = highest_rate(server)
    probe = Probe(server)
    probe.start()
    try:
        load = on_one_core(open_loop, server, rate=3 * rate, seconds=SECONDS, connections=CONNECTIONS)
    finally:
        probe.done.set()
        probe.join()
    assert load.statuses.keys() == {200, 503}
    assert load.dropped == 0
    assert probe.others <= {200}
    assert all(int(response.headers["Retry-After"]) >= 1 for response, _ in probe.refusals)
    assert {status for status, _ in probe.health} == {200}
    if FULL:
        assert load.rate >= 0.85 * rate
        assert np.percentile([seconds for _, seconds in probe.refusals], 99) <= 0.1
        assert max(seconds for _, seconds in probe.health) < 0.25
