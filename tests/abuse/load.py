"""Loads for the server under test, from a generator that is pinned to one core, and the rate that it can carry."""

import os
import time

from benchmarks.load import Load, Loop, Target, closed_loop, in_own_process, open_loop
from tests.abuse import FULL
from tests.abuse.images import encode, picture

BODIES = [encode(picture(seed, size=32), "JPEG") for seed in range(256)]
MOST_P99_MS = 250.0


def on_one_core(loop: Loop, port: int, **options: float) -> Load:
    """Run a load from a process that is pinned to one core, which it inherits from this thread."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        return in_own_process(loop, Target(port), BODIES, **options)
    finally:
        os.sched_setaffinity(0, cores)


def highest_rate(port: int) -> float:
    """R0: the highest open-loop rate (1/s) with all answered and p99 <= 250 ms; at short length, closed-loop throughput."""
    rate = on_one_core(closed_loop, port, concurrency=16, seconds=5.0 if FULL else 2.0).rate
    while FULL:
        load = on_one_core(open_loop, port, rate=rate, seconds=10.0)
        if load.statuses.keys() == {200} and not load.dropped and load.latency_ms(99) <= MOST_P99_MS:
            break
        rate *= 0.93
    return rate


def recovery(port: int, capacity: float) -> float:
    """The share of R0 that the server carries again, 5 s after the trouble ended: asked for 96% of it, for 5 s."""
    time.sleep(5.0)
    return on_one_core(open_loop, port, rate=0.96 * capacity, seconds=5.0).rate / capacity
