"""A load generator that leaves the machine to the server: raw HTTP/1.1 over kept-alive connections, closed or open loop."""

import asyncio
import itertools
import multiprocessing
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop
from numpy.typing import NDArray

RECONNECT_SECONDS = 0.01
PATIENCE_SECONDS = 30.0  # for answers still under way when the load is over

Loop = Callable[..., Coroutine[None, None, "Load"]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the bodies go."""

    port: int
    host: str = "127.0.0.1"
    path: str = "/predict"
    media_type: str = "image/jpeg"

    def request(self, body: bytes) -> bytes:
        """The whole request, as it is written to the socket."""
        lines = (
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Type: {self.media_type}",
            f"Content-Length: {len(body)}",
        )
        return "\r\n".join((*lines, "", "")).encode() + body


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What came of a load.

    `statuses` counts answers, `dropped` requests that got none: the connection broke, or patience ended. `latencies` (n,)
    are the seconds of answers with status 200, from when the request was sent (closed loop) or due (open loop). `seconds`
    is the time from the start to the last answer, `cpu_seconds` what the generator's own process used.
    """

    statuses: Mapping[int, int]
    dropped: int
    latencies: NDArray[np.float64]
    seconds: float
    cpu_seconds: float

    @property
    def requests(self) -> int:
        """How many requests were made."""
        return sum(self.statuses.values()) + self.dropped

    @property
    def rate(self) -> float:
        """Answers with status 200 a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def latency_ms(self, percentile: float) -> float:
        """A percentile of the latencies in milliseconds; NaN if nothing was answered."""
        return float(np.percentile(self.latencies, percentile) * 1000) if len(self.latencies) else float("nan")


class _Connection(asyncio.Protocol):
    """One kept-alive connection with one request under way at most. Reads status and Content-Length only.

    An answer without Content-Length can't be told from a broken one; it counts as dropped and the connection is closed.
    """

    def __init__(self, run: "_Run") -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.busy = False
        self._run = run
        self._since = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it

    def send(self, request: bytes, since: float) -> None:
        self.busy, self._since = True, since
        self._transport.write(request)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = received[:end].lower()
        _, found, length = head.partition(b"\r\ncontent-length:")
        if not found:
            self.close()
        elif len(received) >= end + 4 + int(length.partition(b"\r\n")[0]):
            self._received, self.busy = b"", False
            self._run.answered(int(head[9:12]), self._since)
            if b"\r\nconnection: close" in head:
                self.close()
            else:
                self._run.free(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._run.lost(self)
        self.closed.set_result(None)


class _Run(ABC):
    """One load in progress: a fixed number of connections, reopened when they break, and what they saw."""

    def __init__(self, target: Target, bodies: Sequence[bytes]) -> None:
        self._target = target
        self._requests: Iterator[bytes] = itertools.cycle([target.request(body) for body in bodies])
        self._statuses: Counter[int] = Counter()
        self._latencies = array("d")
        self._dropped = 0
        self._open: set[_Connection] = set()

    @abstractmethod
    def free(self, connection: _Connection) -> None:
        """Give an open connection its next request, or none."""

    @abstractmethod
    def over(self) -> bool:
        """Whether there is nothing left to send."""

    def answered(self, status: int, since: float) -> None:
        self._last = time.perf_counter()
        self._statuses[status] += 1
        if status == 200:
            self._latencies.append(self._last - since)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._dropped += connection.busy

    async def run(self, *, connections: int, seconds: float) -> Load:
        self._start = self._last = time.perf_counter()
        cpu = time.process_time()
        await self._connect()  # raises OSError where nobody listens: a load on nothing is a mistake
        tasks = [asyncio.create_task(self._keep_connected()) for _ in range(connections)]
        feeder = asyncio.create_task(self._feed())
        done, late = await asyncio.wait([feeder, *tasks], timeout=seconds + PATIENCE_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        for task in late:
            task.cancel()
        unanswered = tuple(self._open)
        for connection in unanswered:
            connection.close()
        await asyncio.gather(feeder, *tasks, *(connection.closed for connection in unanswered), return_exceptions=True)
        return Load(
            statuses=dict(self._statuses),
            dropped=self._dropped + self._left(),
            latencies=np.array(self._latencies),
            seconds=self._last - self._start,
            cpu_seconds=time.process_time() - cpu,
        )

    async def _connect(self) -> None:
        """Try whether somebody listens."""
        _, writer = await asyncio.open_connection(self._target.host, self._target.port)
        writer.close()
        await writer.wait_closed()

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.over():
            try:
                _, connection = await loop.create_connection(lambda: _Connection(self), self._target.host, self._target.port)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            self._open.add(connection)
            self.free(connection)
            await asyncio.shield(connection.closed)  # it must outlive a cancelled wait: closing still counts what was dropped

    @abstractmethod
    async def _feed(self) -> None:
        """Make requests due as time goes by."""

    def _left(self) -> int:
        """Requests that were due and never sent."""
        return 0


class _ClosedLoop(_Run):
    """Each connection sends its next request when it has the last one's answer: the load adapts to the server."""

    def __init__(self, target: Target, bodies: Sequence[bytes], *, seconds: float) -> None:
        super().__init__(target, bodies)
        self._deadline = time.perf_counter() + seconds

    def free(self, connection: _Connection) -> None:
        if self.over():
            connection.close()
        else:
            connection.send(next(self._requests), time.perf_counter())

    def over(self) -> bool:
        return time.perf_counter() >= self._deadline

    async def _feed(self) -> None:
        """Do nothing: here an answer makes the next request."""


class _OpenLoop(_Run):
    """Requests are due at a fixed rate whatever the server does, and wait for a free connection.

    A latency counts from when its request was due, so a stalled server can't hide its stall by slowing the load.
    """

    def __init__(self, target: Target, bodies: Sequence[bytes], *, rate: float, seconds: float) -> None:
        super().__init__(target, bodies)
        self._rate = rate
        self._to_come = round(rate * seconds)
        self._due: deque[float] = deque()
        self._idle: list[_Connection] = []

    def free(self, connection: _Connection) -> None:
        if self._due:
            connection.send(next(self._requests), self._due.popleft())
        elif self.over():
            connection.close()
        else:
            self._idle.append(connection)

    def over(self) -> bool:
        return not self._to_come and not self._due

    def lost(self, connection: _Connection) -> None:
        super().lost(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _feed(self) -> None:
        for number in range(self._to_come):
            due = self._start + number / self._rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._due.append(due)
            self._to_come -= 1
            if self._idle:
                self.free(self._idle.pop())
        for connection in tuple(self._idle):
            connection.close()

    def _left(self) -> int:
        return self._to_come + len(self._due)


async def closed_loop(target: Target, bodies: Sequence[bytes], *, concurrency: int, seconds: float) -> Load:
    """Keep `concurrency` requests under way for `seconds`, and wait for the last answers. Raises OSError where nobody listens."""
    return await _ClosedLoop(target, bodies, seconds=seconds).run(connections=concurrency, seconds=seconds)


async def open_loop(target: Target, bodies: Sequence[bytes], *, rate: float, seconds: float, connections: int = 64) -> Load:
    """Make `rate` requests a second for `seconds`, over at most `connections` at a time. Raises OSError where nobody listens."""
    return await _OpenLoop(target, bodies, rate=rate, seconds=seconds).run(connections=connections, seconds=seconds)


def in_own_process(loop: Loop, target: Target, bodies: Sequence[bytes], **options: float) -> Load:
    """Run `closed_loop` or `open_loop` in a fresh process, so that it takes no time from the caller's threads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run_alone, loop, target, bodies, options).result()


def _run_alone(loop: Loop, target: Target, bodies: Sequence[bytes], options: Mapping[str, float]) -> Load:
    return uvloop.run(loop(target, bodies, **options))
