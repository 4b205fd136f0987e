"""A10: five hundred queries at once, and a limit of one hundred."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.accounts import IMAGE
from tests.redis_server import RunningRedis
from tests.server import RunningServer

REQUESTS, LIMIT = 500, 100
PATIENT = ("store.timeout_seconds", "server.header_seconds", "server.body_seconds", "server.deadline_seconds")  # busy is not broken


@pytest.mark.abuse
@pytest.mark.anyio
async def test_exactly_the_limit_is_answered_over_two_replicas(
    tmp_path: Path, start: Callable[..., RunningServer], figure: Callable[..., None]
) -> None:
    """Not one more, not one less; every other answer is a 429 that says when to come back."""
    with RunningRedis(tmp_path / "redis") as redis:
        replicas = [await asyncio.to_thread(start, "--store", redis.url, *options()) for _ in range(2)]
        try:
            answers = await ask_all(replicas)
        finally:
            for replica in replicas:
                replica.terminate()  # before the Redis that they use
    counts = Counter(answer.status_code for answer in answers)
    figure(f"{counts[200]} of {REQUESTS} answered, {counts[429]} refused", met=counts[200] == LIMIT)
    assert counts == {200: LIMIT, 429: REQUESTS - LIMIT}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)


def options() -> list[str]:
    """The limit, and deadlines that a busy machine does not miss: a request that comes late would cost one of the hundred."""
    settings = [f"limits.per_day={LIMIT}", "suspicion.mode=shadow", *(f"{name}=60" for name in PATIENT)]
    return [part for setting in settings for part in ("--set", setting)]


async def ask_all(replicas: list[RunningServer]) -> list[httpx.Response]:
    """All at once, each replica its half, on as many connections as there are requests."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        urls = itertools.islice(itertools.cycle(replica.url for replica in replicas), REQUESTS)
        headers = {"content-type": "image/jpeg"}
        return await asyncio.gather(*(client.post(f"{url}/predict", content=IMAGE, headers=headers) for url in urls))
