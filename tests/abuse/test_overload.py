"""L2: three times what the server can answer."""

import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from benchmarks.load import open_loop
from tests.abuse import FULL
from tests.abuse.load import BODIES, on_one_core, recovery
from tests.server import RunningServer

SECONDS = 60.0 if FULL else 6.0
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


@pytest.mark.abuse
def test_overload_is_refused_quickly_and_politely(
    start: Callable[..., RunningServer], capacity: float, figure: Callable[..., None]
) -> None:
    """At three times R0 the excess gets 503 with Retry-After and nothing else fails; health and metrics stay reachable.

    Full length also asserts figures: goodput >= 85% of R0, refusals' p99 <= 100 ms, health and metrics < 250 ms throughout.
    """
    server = start()
    memory = server.memory()
    probe = Probe(server)
    probe.start()
    try:
        load = on_one_core(open_loop, server.port, rate=3 * capacity, seconds=SECONDS, connections=CONNECTIONS)
    finally:
        probe.done.set()
        probe.join()
    assert load.statuses.keys() == {200, 503}
    assert load.dropped == 0
    assert probe.others <= {200}
    assert all(int(response.headers["Retry-After"]) >= 1 for response, _ in probe.refusals)
    assert {status for status, _ in probe.health} == {200}
    figure(f"goodput {load.rate:.0f}/s, {load.rate / capacity:.0%} of R0", met=load.rate >= 0.85 * capacity)
    refused = 1000 * float(np.percentile([seconds for _, seconds in probe.refusals], 99))
    figure(f"{load.statuses[503]:,} refused, p99 {refused:.0f} ms", met=refused <= 100)
    slowest = 1000 * max(seconds for _, seconds in probe.health)
    figure(f"health and metrics at most {slowest:.0f} ms", met=slowest < 250)
    if FULL:
        share, growth = recovery(server.port, capacity), server.memory() / memory - 1
        figure(f"afterwards {share:.0%} of R0; RSS {growth:+.0%}", met=share >= 0.95 and growth < 0.2)
    assert "Traceback" not in server.log_text()
