"""A2: decompression bombs and foreign formats."""

import time
from collections.abc import Callable

import httpx
import pytest

from tests.abuse.bombs import bombs
from tests.abuse.images import encode, picture
from tests.abuse.observation import PeakMemory
from tests.server import RunningServer


@pytest.mark.abuse
def test_bombs_are_refused_before_they_go_off(server: RunningServer, figure: Callable[..., None]) -> None:
    """Each bomb gets its status within 150 ms (full length only) and costs at most 100 MB, as raw body and as a form's file."""
    failures: list[str] = []
    slowest, largest, slow = 0.0, 0, []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        client.post("/predict", content=encode(picture(0), "JPEG"), headers={"Content-Type": "image/jpeg"}).raise_for_status()
        for name, media_type, data, expected in bombs():
            for form in (False, True):
                with PeakMemory(server) as memory:
                    started = time.perf_counter()
                    response = (
                        client.post("/predict", files={"file": ("cat.jpg", data, media_type)})
                        if form
                        else client.post("/predict", content=data, headers={"Content-Type": media_type})
                    )
                    seconds = time.perf_counter() - started
                slowest, largest = max(slowest, seconds), max(largest, memory.growth)
                slow += [f"{name} {seconds * 1000:.0f} ms"] if seconds > 0.15 else []
                if response.status_code not in expected or memory.growth > 100 * 2**20:
                    failures.append(f"{name}: {response.status_code}, {seconds * 1000:.0f} ms, {memory.growth / 2**20:.0f} MB")
    assert server.alive
    assert not failures
    figure(f"slowest {slowest * 1000:.0f} ms, at most +{largest / 2**20:.0f} MB; beyond 150 ms: {', '.join(slow) or 'none'}", met=not slow)
