"""F5: replicas behind nginx, restarted one after the other."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.load import Load, Target, open_loop
from tests.abuse import FULL
from tests.abuse.load import BODIES
from tests.cluster import Cluster, running_cluster
from tests.nginx import needs_nginx

ROLLS = 20
REQUESTS = 10_000


class Loading(threading.Thread):
    """A steady load on a port, light enough to come from this process, in pieces without a pause until told to stop."""

    def __init__(self, port: int, *, rate: float, piece_seconds: float) -> None:
        super().__init__()
        self._port, self._rate, self._piece = port, rate, piece_seconds
        self.done = threading.Event()
        self.loads: list[Load] = []

    def run(self) -> None:
        """Load piece after piece."""
        while not self.done.is_set():
            load = open_loop(Target(self._port), BODIES, rate=self._rate, seconds=self._piece, connections=16)
            self.loads.append(asyncio.run(load))

    @property
    def failed(self) -> int:
        """Requests without an answer, or with another status than 200."""
        return sum(load.requests - load.statuses.get(200, 0) for load in self.loads)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(load.requests for load in self.loads)


def rolled(cluster: Cluster, *, times: int) -> None:
    """Restart the replicas by SIGTERM, each when the one before is ready again."""
    for _ in range(times):
        for replica in cluster.replicas:
            assert replica.terminate() == 0
            replica.restart()


@pytest.mark.abuse
@needs_nginx
@pytest.mark.skipif(not FULL, reason="tests/end_to_end/test_cluster.py is the short form")
def test_rolling_restarts_fail_no_request(tmp_path: Path, figure: Callable[..., None]) -> None:
    """Every request through nginx is answered with 200 while both replicas are restarted again and again."""
    with running_cluster(tmp_path, balanced=True) as cluster:
        assert cluster.nginx
        loading = Loading(cluster.nginx.port, rate=40.0, piece_seconds=10.0)
        loading.start()
        try:
            rolled(cluster, times=ROLLS)
            while loading.requests < REQUESTS:
                rolled(cluster, times=1)
        finally:
            loading.done.set()
            loading.join()
    figure(f"{ROLLS} rolls of 2 replicas, {loading.failed} failed of {loading.requests:,}", met=loading.failed == 0)
