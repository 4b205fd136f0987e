"""A server that is told to end gives balancers time to notice."""

import os
import signal
import time
from collections.abc import Callable

import httpx

from tests.pictures import jpeg, ship
from tests.server import RunningServer

JPEG = {"Content-Type": "image/jpeg"}


def is_unready(server: RunningServer) -> bool:
    """Whether /readyz refuses, and says when to come back."""
    answer = httpx.get(f"{server.url}/readyz", timeout=10)
    assert answer.status_code == 200 or int(answer.headers["Retry-After"]) >= 1
    return answer.status_code == 503


def test_a_draining_server_is_unready_and_answers_until_the_time_is_over(start: Callable[..., RunningServer]) -> None:
    """After SIGTERM /readyz is 503 while new connections are served; a second SIGTERM ends it at once, with exit code 0."""
    server = start("--set", "server.drain_seconds=600")
    os.kill(server.pid, signal.SIGTERM)
    give_up = time.monotonic() + 30
    while not is_unready(server):
        assert time.monotonic() < give_up
    for _ in range(3):
        assert httpx.post(f"{server.url}/predict", content=jpeg(ship()), headers=JPEG, timeout=10).status_code == 200
    assert server.terminate() == 0


def test_an_interrupt_does_not_wait(start: Callable[..., RunningServer]) -> None:
    """Ctrl-C ends a server at once, whatever balancers need."""
    server = start("--set", "server.drain_seconds=600")
    os.kill(server.pid, signal.SIGINT)
    give_up = time.monotonic() + 30
    while server.alive:
        assert time.monotonic() < give_up
        time.sleep(0.05)
