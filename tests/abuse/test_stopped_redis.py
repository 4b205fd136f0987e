"""F2: Redis is there and does not answer."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.answers import Client
from tests.abuse import FULL
from tests.abuse.images import near_duplicate
from tests.abuse.test_lost_redis import seconds_until
from tests.cluster import running_cluster

STOPPED_SECONDS = 30.0 if FULL else 2.0
BASELINE_SECONDS = 10.0 if FULL else 1.0
PAUSE_SECONDS = 0.005  # between two requests of an asker
ASKERS = 4
FEWEST = 20  # answers of an asker before the stop, and while it lasts
TIMEOUT_MS = 50.0


class Asker(threading.Thread):
    """Asks one picture after the other, and notes when each was asked and how long its answer took (s); any error ends the test."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__()
        self._port, self._seed = port, seed
        self.done = threading.Event()
        self.answers: list[tuple[float, float]] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask until done."""
        images = [near_duplicate(self._seed * 1000 + number, 0) for number in range(64)]
        try:
            with Client(self._port) as client:
                while not self.done.wait(PAUSE_SECONDS):
                    began = time.monotonic()
                    self.answers.append((began, client.ask(images[len(self.answers) % len(images)]).seconds))
        except (RuntimeError, OSError) as error:
            self.error = error


def more(askers: list[Asker], count: int) -> None:
    """Wait until every asker has so many more answers: a busy machine gives them late."""
    goals = [len(asker.answers) + count for asker in askers]
    give_up = time.monotonic() + 60
    while any(len(asker.answers) < goal for asker, goal in zip(askers, goals, strict=True)):
        assert time.monotonic() < give_up
        assert not any(asker.error for asker in askers)
        time.sleep(0.05)


@pytest.mark.abuse
def test_a_stopped_redis_is_waited_for_once(tmp_path: Path, figure: Callable[..., None]) -> None:
    """Every request is answered; at full length also how long each waited: until the breaker opens, and while it is open."""
    with running_cluster(tmp_path, replicas=1) as cluster:
        (server,) = cluster.replicas
        askers = [Asker(server.port, seed) for seed in range(ASKERS)]
        for asker in askers:
            asker.start()
        try:
            time.sleep(BASELINE_SECONDS)
            more(askers, FEWEST)
            seconds_until(server, degraded=False)  # the first look at the metrics makes the admin application, which takes its time
            more(askers, FEWEST)
            stopped = time.monotonic()
            cluster.redis.stop()
            opened = time.monotonic() + seconds_until(server, degraded=True)
            time.sleep(STOPPED_SECONDS)
            more(askers, FEWEST)
            gone_on = time.monotonic()
            cluster.redis.go_on()
            cleared = seconds_until(server, degraded=False)
        finally:
            cluster.redis.go_on()
            for asker in askers:
                asker.done.set()
            for asker in askers:
                asker.join()
        assert "Traceback" not in server.log_text()
    assert not [asker.error for asker in askers if asker.error]
    answers = [answer for asker in askers for answer in asker.answers]

    def between(since: float, until: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return 1000 * np.array([seconds for at, seconds in answers if since <= at < until])

    usual = between(0, stopped)
    median, p99 = np.percentile(usual, [50, 99])
    waited = between(stopped - 0.05, opened).max(initial=0) - median
    figure(f"until the breaker opened at most {waited:.0f} ms more than the median", met=waited <= TIMEOUT_MS + p99 - median)
    alone = between(opened, gone_on)
    assert len(alone)
    figure(
        f"then {np.median(alone) - median:+.1f} ms (p99 {np.percentile(alone, 99):.0f} ms, before {p99:.0f} ms)",
        met=np.median(alone) <= median + 1,
    )
    figure(f"{len(answers):,} requests, 0 5xx; cleared {cleared:.1f} s after it went on")
