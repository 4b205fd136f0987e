"""Replicas that share one Redis, with nginx in front of them where that is asked for."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.nginx import RunningNginx
from tests.redis_server import RunningRedis
from tests.server import RunningServer

# A busy machine is no outage: without this a Redis that had to wait for the processor would be taken for one that is away.
PATIENT = ("--set", "store.timeout_seconds=5")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What runs."""

    redis: RunningRedis
    replicas: tuple[RunningServer, ...]
    nginx: RunningNginx | None

    @property
    def url(self) -> str:
        """nginx's address."""
        assert self.nginx is not None
        return self.nginx.url


@contextmanager
def running_cluster(folder: Path, *options: str, replicas: int = 2, balanced: bool = False) -> Iterator[Cluster]:
    """A Redis, `replicas` servers with these options and one secret, and (`balanced`) nginx, until the block ends."""
    with ExitStack() as stack:
        redis = stack.enter_context(RunningRedis(folder / "redis"))
        options = ("--store", redis.url, "--set", "server.trusted_proxies=127.0.0.1", *options)
        servers = tuple(stack.enter_context(RunningServer(folder / f"replica-{n}", *options)) for n in range(replicas))
        nginx = stack.enter_context(RunningNginx(folder / "nginx", replicas=[one.port for one in servers])) if balanced else None
        yield Cluster(redis, servers, nginx)
