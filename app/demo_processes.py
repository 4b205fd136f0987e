"""The demo's children: a server and a thief, each a process of its own, and the signals that end them."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

LOOPBACK = "127.0.0.1"
READY_SECONDS = 60.0
STOP_SECONDS = 15.0  # longer than a server waits for its open requests
LOOK_SECONDS = 0.25  # between two looks at a child
COUNTERS = (  # in the order of Seen
    "cloneguard_queries_total",
    "cloneguard_ood_queries_total",
    "cloneguard_near_duplicate_queries_total",
    "cloneguard_misrecognized_answers_total",
)
INSTALL = "pip install -c constraints.txt -e '.[cpu,train]' -e ./attacker_client"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server counted: queries that it answered, and how many of them were flagged, had near-duplicates, and were altered."""

    queries: int = 0
    ood: int = 0
    near_duplicates: int = 0
    altered: int = 0

    def plus(self, other: "Seen") -> "Seen":
        """Both together: a server that was started again counts from nothing."""
        return Seen(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class Interruption:
    """Notes SIGINT, SIGTERM and SIGHUP instead of ending at once: a child that was just started would be left behind."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):  # as under nohup
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        """Sleep, unless somebody asked to stop: then raise KeyboardInterrupt."""
        if not self.asked:
            time.sleep(seconds)
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002, the signature of a handler
        self.asked = True


class Child:
    """A process whose output goes to a file, in a session of its own: Ctrl-C in a terminal reaches us alone, and we end it in turn."""

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLONEGUARD_")}  # the profile alone decides
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603, our own commands
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def last_line(self) -> str:
        """What it said last, which says why it ended."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"

    def stop(self) -> None:
        """End it, and wait until it has."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    child: Child
    port: int
    admin_port: int

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://{LOOPBACK}:{self.port}"

    def seen(self) -> Seen:
        """What it has counted since its start; raises ChildProcessError where it does not say."""
        page = _get(self.admin_port, "/metrics")
        if page is None:
            raise ChildProcessError(f"the server at {self.url} says no longer what it counted: {self.child.last_line()}")
        counted = dict.fromkeys(COUNTERS, 0.0)
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name in counted and sample.labels.get("outcome", "answered") == "answered":
                    counted[sample.name] += sample.value
        return Seen(*(int(value) for value in counted.values()))


@contextlib.contextmanager
def serving(profile: str, *, bundle: str, port: int, state: Path, log: Path, interruption: Interruption) -> Iterator[Server]:
    """Run `cloneguard serve` until the block ends.

    Raises OSError for a port that is taken, ChildProcessError for a server that does not get ready.
    """
    if not is_free(port):
        raise OSError(f"port {port}, with which this demo began, is taken: free it, or begin another one with --out")
    admin_port = free_port()
    options = ["--profile", profile, "--bundle", bundle, "--state", str(state)]
    ports = ["--host", LOOPBACK, "--port", str(port), "--admin-port", str(admin_port)]
    child = Child([sys.executable, "-m", "app", "serve", *options, *ports], log=log)
    try:
        give_up = time.monotonic() + READY_SECONDS
        while _get(port, "/readyz") is None:
            if child.code is not None:
                raise ChildProcessError(f"the server under {profile} ended while starting: {child.last_line()}")
            if time.monotonic() > give_up:
                raise ChildProcessError(f"the server under {profile} is not ready after {READY_SECONDS:.0f} s; its log is {log}")
            interruption.wait(LOOK_SECONDS)
        yield Server(child, port, admin_port)
    finally:
        child.stop()


def attacker_client() -> str:
    """The attacker client's command, beside our own; raises FileNotFoundError with the line that installs it."""
    found = shutil.which("attacker-client", path=str(Path(sys.executable).parent))
    if found is None:
        raise FileNotFoundError(f"the demo's thief is a distribution of its own: {INSTALL}")
    return found


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody listens there: another's server would be attacked instead of ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _get(port: int, path: str) -> str | None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=15)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        return body if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
