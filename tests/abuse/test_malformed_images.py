"""A1: damaged images."""

import time
from collections.abc import Callable

import httpx
import pytest

from tests.abuse import FULL
from tests.abuse.mutations import mutated, originals, small
from tests.abuse.observation import PeakMemory
from tests.server import RunningServer

COUNT = 10_000 if FULL else 1200
ALLOWED = {200, 400, 422}


def test_every_offset_is_reached_at_full_length() -> None:
    """The full corpus has one small file of each format, truncated at every offset."""
    seen = {data for _, data in mutated(10_000, seed=1)}
    assert {file[:at] for _, file in small() for at in range(len(file))} <= seen


@pytest.mark.abuse
def test_damaged_images_are_answered_and_leave_nothing_behind(server: RunningServer, figure: Callable[..., None]) -> None:
    """Each mutant is answered with 200, 400 or 422 within a second; the server lives and keeps at most 100 MB."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for media_type, data in originals() * 10:
            assert client.post("/predict", content=data, headers={"Content-Type": media_type}).status_code == 200
        slowest = 0.0
        with PeakMemory(server, every_seconds=0.2) as memory:
            for number, (media_type, data) in enumerate(mutated(COUNT, seed=1)):
                started = time.perf_counter()
                response = client.post("/predict", content=data, headers={"Content-Type": media_type})
                slowest = max(slowest, time.perf_counter() - started)
                assert response.status_code in ALLOWED, (number, media_type, response.text)
    assert server.alive
    assert memory.growth <= 100 * 2**20
    figure(f"{COUNT:,} images, slowest {slowest * 1000:.0f} ms, +{memory.growth / 2**20:.0f} MB", met=slowest <= 1.0)
