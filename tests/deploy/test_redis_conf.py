"""The Redis configuration that we ship: Redis takes it, keeps every write, and throws nothing away by itself."""

import subprocess
import time
from pathlib import Path

import redis

from tests.redis_server import redis_executable
from tests.server import free_port

SHIPPED = Path(__file__).parents[2] / "deploy" / "redis" / "redis.conf"


def test_redis_takes_it_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    """It starts, says what it was configured to, and has every write again after kill -9."""
    port = free_port()
    command = [redis_executable(), str(SHIPPED), "--port", str(port), "--dir", str(tmp_path)]
    for start in range(2):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, redis.Redis(port=port, decode_responses=True) as client:
            try:
                answer(client)
                kept = client.get("key")
                client.set("key", "value")
                settings = client.config_get("*")
            finally:
                process.kill()
        assert kept == (None, "value")[start]
    assert isinstance(settings, dict)
    assert (settings["bind"], settings["protected-mode"]) == ("127.0.0.1", "yes")
    assert (settings["appendonly"], settings["save"], settings["maxmemory-policy"]) == ("yes", "", "noeviction")
    assert int(settings["maxmemory"]) > 0


def answer(client: "redis.Redis") -> None:
    """Wait until it answers."""
    give_up = time.monotonic() + 20
    while True:
        try:
            client.ping()
        except redis.RedisError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
        else:
            return
