"""The load generator counts what really happened, whatever the server does."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import Target, closed_loop, in_own_process, open_loop

pytestmark = pytest.mark.anyio
BODIES = [b"first", b"second body", b"third"]


class Server:
    """A server that answers by number: `reply(n)` is the n-th answer's bytes, or None to break the connection."""

    def __init__(self, reply: Callable[[int], bytes | None]) -> None:
        self._reply = reply
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self.most_under_way = 0
        self._under_way = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append((head.decode(), await reader.readexactly(length)))
                self._under_way += 1
                self.most_under_way = max(self.most_under_way, self._under_way)
                answer = self._reply(len(self.requests))
                await asyncio.sleep(0.001)
                self._under_way -= 1
                if answer is None:
                    break
                for piece in (answer[:20], answer[20:]):  # an answer may come in pieces
                    writer.write(piece)
                    await writer.drain()
                if b"Connection: close" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]) -> AsyncIterator[Target]:
    """Serve on a free port while the block runs."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield Target(server.sockets[0].getsockname()[1])


def answer(status: int, *, headers: str = "", body: bytes = b'{"label": "cat"}') -> bytes:
    """The bytes of an answer with a Content-Length."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def test_closed_loop_counts_every_answer() -> None:
    """What was counted is what the server saw, bodies in turn, with as many under way as asked for and no more."""
    server = Server(lambda _: answer(200))
    async with listening(server) as target:
        load = await closed_loop(target, BODIES, concurrency=3, seconds=0.3)
    assert load.requests == len(server.requests) > 3
    assert load.statuses == {200: load.requests}
    assert (load.dropped, len(load.latencies)) == (0, load.requests)
    assert server.most_under_way == 3
    assert {body for _, body in server.requests} == set(BODIES)
    assert server.requests[0][0].startswith("POST /predict HTTP/1.1\r\n")
    assert 0.001 <= load.latency_ms(50) / 1000 <= load.latency_ms(99) / 1000 <= load.seconds
    assert load.rate == load.requests / load.seconds


async def test_refusals_are_counted_apart() -> None:
    """A 503 is an answer, but neither a rate nor a latency is made of it."""
    server = Server(lambda n: answer(503 if n % 3 == 0 else 200))
    async with listening(server) as target:
        load = await closed_loop(target, BODIES, concurrency=2, seconds=0.2)
    assert load.statuses[503] == len(server.requests) // 3
    assert len(load.latencies) == load.statuses[200] == len(server.requests) - load.statuses[503]


async def test_announced_closes_cost_nothing() -> None:
    """A server that closes after each answer gets a new connection for each request, and none is lost."""
    server = Server(lambda _: answer(200, headers="Connection: close\r\n"))
    async with listening(server) as target:
        load = await closed_loop(target, BODIES, concurrency=2, seconds=0.2)
    assert load.dropped == 0
    assert load.statuses == {200: len(server.requests)}
    assert server.connections >= len(server.requests) > 2


async def test_broken_connections_are_survived() -> None:
    """A connection that breaks without an answer is one dropped request, and the load goes on."""
    server = Server(lambda n: None if n % 5 == 0 else answer(200))
    async with listening(server) as target:
        load = await closed_loop(target, BODIES, concurrency=2, seconds=0.3)
    assert load.dropped == len(server.requests) // 5 > 1
    assert load.statuses == {200: len(server.requests) - load.dropped}


async def test_answer_without_a_length_is_dropped() -> None:
    """An answer whose end can't be seen isn't counted as one."""
    server = Server(lambda n: b"HTTP/1.1 200 X\r\nServer: odd\r\n\r\nhello" if n == 1 else answer(200))
    async with listening(server) as target:
        load = await closed_loop(target, BODIES, concurrency=1, seconds=0.1)
    assert (load.dropped, load.statuses[200]) == (1, len(server.requests) - 1)


async def test_open_loop_keeps_its_schedule() -> None:
    """An open loop makes exactly rate x seconds requests, not before their time."""
    server = Server(lambda _: answer(200))
    async with listening(server) as target:
        load = await open_loop(target, BODIES, rate=200, seconds=0.5, connections=8)
    assert load.statuses == {200: 100}
    assert len(server.requests) == 100
    assert load.seconds >= 99 / 200


async def test_open_loop_waits_for_a_slow_server() -> None:
    """With one connection a slow server still gets every request, and the waiting is in the latencies."""
    server = Server(lambda _: answer(200))
    async with listening(server) as target:
        load = await open_loop(target, BODIES, rate=20_000, seconds=0.01, connections=1)
    assert load.statuses == {200: 200}
    assert load.latencies[-1] > 0.1  # 200 answers of at least 1 ms each, all due in the first 10 ms
    assert server.most_under_way == 1


async def test_open_loop_survives_breaks() -> None:
    """Every due request is either answered or dropped."""
    server = Server(lambda n: None if n % 4 == 0 else answer(200))
    async with listening(server) as target:
        load = await open_loop(target, BODIES, rate=400, seconds=0.25, connections=4)
    assert load.requests == 100
    assert load.dropped == 25


async def test_hung_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers ends the load when patience does, with what was sent counted as dropped."""
    monkeypatch.setattr("benchmarks.load.PATIENCE_SECONDS", 0.1)
    given_up = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait([asyncio.create_task(given_up.wait()), asyncio.create_task(reader.read())], return_when="FIRST_COMPLETED")
        writer.close()

    async with listening(hang) as target:
        closed = await closed_loop(target, BODIES, concurrency=3, seconds=0.1)
        given_up.set()
    assert (closed.statuses, closed.dropped) == ({}, 3)


async def test_nobody_listens() -> None:
    """A load on a closed port is an error, not a row of zeros."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"refused|failed"):
            await closed_loop(Target(probe.getsockname()[1]), BODIES, concurrency=1, seconds=0.1)


async def test_load_in_its_own_process() -> None:
    """The same load from another process counts the same."""
    server = Server(lambda _: answer(200))
    async with listening(server) as target:
        load = await asyncio.to_thread(in_own_process, open_loop, target, BODIES, rate=100, seconds=0.2)
    assert load.statuses == {200: 20}
    assert len(server.requests) == 20
    assert load.cpu_seconds > 0
