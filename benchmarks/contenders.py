"""The services that are measured: how each is started, when it is ready, what it holds in memory."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

READY_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A service and its command line, given a port and an empty directory of its own; ready once `ready` answers 200."""

    name: str
    command: Callable[[int, Path], list[str]]
    ready: str


def ours(profile: str, bundle: Path) -> Contender:
    """Our server under a profile, with its store in the empty directory."""

    def command(port: int, directory: Path) -> list[str]:
        serve = [sys.executable, "-m", "app", "serve", "--profile", profile, "--bundle", str(bundle)]
        return [*serve, "--port", str(port), "--admin-port", str(free_port()), "--state", str(directory / "state")]

    return Contender(profile, command, ready="/readyz")


def plain(name: str, model: Path, *, threads: int) -> Contender:
    """The plain service; its OpenAPI document tells that it is up."""

    def command(port: int, _: Path) -> list[str]:
        return [sys.executable, "-m", "benchmarks.plain_service", str(model), "--port", str(port), "--threads", str(threads)]

    return Contender(name, command, ready="/openapi.json")


@dataclass(frozen=True, slots=True)
class Running:
    """A started service."""

    port: int
    process: subprocess.Popen[bytes]

    def resident_bytes(self) -> int:
        """Resident memory of the process and its children; pages they share are counted in each."""
        process = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))

    def best_classes(self, bodies: Sequence[bytes]) -> list[int]:
        """The class that each body is answered with."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_SECONDS)
        classes = []
        for body in bodies:
            connection.request("POST", "/predict", body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"POST /predict was answered {response.status}: {answer[:200]!r}")
            classes.append(int(json.loads(answer)["predictions"][0]["class_id"]))
        connection.close()
        return classes


@contextmanager
def running(contender: Contender, directory: Path) -> Iterator[Running]:
    """Start a service in `directory` and stop it afterwards. Raises RuntimeError with its log if it doesn't get ready."""
    port, log = free_port(), directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(contender.command(port, directory), stdout=output, stderr=output)
    try:
        give_up = time.monotonic() + READY_SECONDS
        while not _answers(port, contender.ready):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{contender.name} did not get ready:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        yield Running(port, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
