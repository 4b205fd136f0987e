"""L1: a steady load that the server can carry."""

import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from benchmarks.load import open_loop
from tests.abuse import FULL
from tests.abuse.load import on_one_core
from tests.server import RunningServer

SECONDS = 120.0 if FULL else 3.0
SHARE = 0.7 if FULL else 0.3
SETTLED = 0.25  # of the time: caches fill first


class Watch(threading.Thread):
    """Looks at a process once a second: when (s), resident MB, open file descriptors."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__()
        self._server = server
        self.done = threading.Event()
        self.seen: list[tuple[float, float, int]] = []

    def run(self) -> None:
        """Look until done."""
        process = psutil.Process(self._server.pid)
        while not self.done.wait(1.0 if FULL else 0.2):
            self.seen.append((time.monotonic(), self._server.memory() / 1e6, process.num_fds()))


@pytest.mark.abuse
def test_a_steady_load_has_no_errors_and_leaves_nothing_behind(
    start: Callable[..., RunningServer], capacity: float, figure: Callable[..., None]
) -> None:
    """Every request is answered; memory and file descriptors stay where they are. The pictures are 256, again and again."""
    server = start()
    watch = Watch(server)
    watch.start()
    try:
        load = on_one_core(open_loop, server.port, rate=SHARE * capacity, seconds=SECONDS)
    finally:
        watch.done.set()
        watch.join()
    assert load.statuses.keys() == {200}
    assert not load.dropped
    assert "Traceback" not in server.log_text()
    times, memory, files = (np.array(column, dtype=float) for column in zip(*watch.seen[int(len(watch.seen) * SETTLED) :], strict=True))
    slope = float(np.polyfit(times - times[0], memory, 1)[0]) * 60
    figure(f"{load.requests:,} requests at {load.rate:.0f}/s, 0 errors, p99 {load.latency_ms(99):.0f} ms")
    figure(f"RSS {slope:+.2f} MB/min", met=slope < 1.0)
    first, last = (float(np.median(half)) for half in np.array_split(files, 2))
    figure(f"file descriptors {files.min():.0f} to {files.max():.0f}", met=last <= first + 2)
