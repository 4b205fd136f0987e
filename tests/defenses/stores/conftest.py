"""A Redis that all tests of the stores share, and that each of them finds empty."""

from collections.abc import Iterator

import pytest

from tests.redis_server import RunningRedis


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """One server for the session; tests that break theirs start their own."""
    with RunningRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def empty_redis(shared_redis: RunningRedis) -> RunningRedis:
    """The shared server, without a key."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis
