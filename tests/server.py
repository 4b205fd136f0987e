"""A real `cloneguard serve` in a process of its own, for tests that speak HTTP."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

SECRET = "the same in every test: whose answers are altered must not change from run to run"
READY_SECONDS = 60.0  # on a machine that is busy with other things; an idle one needs a few
STOP_SECONDS = 60.0  # likewise


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningServer:
    """A server process, how to reach it and what can be seen of it from outside."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self.options = options
        self.port, self.admin_port = free_port(), free_port()
        self.log = state.with_name(f"{state.name}.log")
        if not (state / "secret").exists():
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            (state / "secret").write_text(SECRET)
        self._start()

    def _start(self) -> None:
        ports = ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        command = [sys.executable, "-m", "app", "serve", *ports, "--state", str(self.state), *self.options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        give_up = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"the server did not get ready:\n{self.log_text()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def url(self) -> str:
        """Where the public port is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the admin port is."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def admin_token(self) -> str:
        """The token that the server made on its first start."""
        return (self.state / "admin-token").read_text().strip()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def memory(self) -> int:
        """Resident bytes of the process and its children."""
        process = psutil.Process(self.pid)
        return sum(int(one.memory_info().rss) for one in (process, *process.children(recursive=True)))

    def log_text(self) -> str:
        """What the process has printed so far, over all its starts."""
        return self.log.read_text(errors="replace")

    def admin(self, path: str) -> httpx.Response:
        """Ask the admin port, with the token."""
        return httpx.get(f"{self.admin_url}{path}", headers={"Authorization": f"Bearer {self.admin_token}"}, timeout=10)

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every metric series and its value: what Prometheus would read."""
        families = text_string_to_metric_families(httpx.get(f"{self.admin_url}/metrics", timeout=10).text)
        return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that carry `labels`."""
        return sum(value for (series, found), value in self.samples().items() if series == name and found >= set(labels.items()))

    def kill(self) -> None:
        """End the process as the kernel would (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Ask the process to end (SIGTERM) and return its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def restart(self) -> None:
        """Start again on the same state and ports, after kill or terminate."""
        if self.alive:
            self.terminate()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.terminate()
