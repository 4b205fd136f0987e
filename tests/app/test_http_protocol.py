"""HTTP limits, on a real server with a small application behind it."""

import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import pytest
import uvicorn

from app.http_protocol import MAX_DISCARDED_BYTES, MAX_PIPELINED, hardened_protocol

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Echo:
    """Answers /early before it reads, /slow when `let_go` is set, /large with much, and everything else with the body it got."""

    bodies: list[bytes] = field(default_factory=list)
    disconnects: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        body, more = b"", scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            body, more = body + message["body"], message["more_body"]
        if scope["path"] == "/slow":
            await anyio.to_thread.run_sync(self.let_go.wait)
        self.bodies.append(body)
        self.headers = scope["headers"]
        answer = b"x" * 2_000_000 if scope["path"] == "/large" else body
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def port(echo: Echo) -> Iterator[int]:
    protocol = hardened_protocol(header_seconds=0.3, body_seconds=0.9, max_header_bytes=4096, max_headers=20)
    server = uvicorn.Server(uvicorn.Config(echo, port=0, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=30))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as opened:
        yield opened


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the server's closing of the connection, orderly or not."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def exchange(connection: socket.socket, request: bytes, *, ending: bytes) -> bytes:
    """Send, and read until `ending` came."""
    connection.sendall(request)
    received = b""
    while not received.endswith(ending):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def accepted(connection: socket.socket, piece: bytes, *, times: int) -> int:
    """How many of `times` pieces could be sent before the server closed the connection."""
    for number in range(times):
        try:
            connection.sendall(piece)
        except (ConnectionResetError, BrokenPipeError):
            return number
    return times


def test_ordinary_requests_share_a_connection(connection: socket.socket) -> None:
    """Bodies with a length, in chunks, and pipelined ones are answered in order."""
    assert exchange(connection, HEAD + b"Content-Length: 3\r\n\r\none", ending=b"one").startswith(b"HTTP/1.1 200")
    exchange(connection, HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\ntw\r\n1\r\no\r\n0\r\n\r\n", ending=b"two")
    both = exchange(connection, HEAD + b"Content-Length: 1\r\n\r\na" + HEAD + b"Content-Length: 1\r\n\r\nb", ending=b"b")
    assert both.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("said", [b"", b"\r\n", b"POST / HT", HEAD, HEAD + b"X: "])
def test_an_unfinished_head_is_closed_before_an_unfinished_body(port: int, said: bytes) -> None:
    """The head's deadline is shorter than the body's, silent sockets have the head's, and dripping bytes do not move it."""
    order: list[str] = []

    def wait_for_close(name: str, opening: bytes, drip: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(opening)
            connection.settimeout(0.05)
            while True:
                try:
                    if not connection.recv(65536):
                        break
                except TimeoutError:
                    if drip:
                        connection.sendall(drip)
                except (ConnectionResetError, BrokenPipeError):
                    break
            order.append(name)

    threads = [
        threading.Thread(target=wait_for_close, args=("body", HEAD + b"Content-Length: 9999\r\n\r\n", b"x")),
        threading.Thread(target=wait_for_close, args=("head", said, b"a" if said else b"")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["head", "body"]


def test_deadlines_are_told_as_408(connection: socket.socket, port: int, echo: Echo) -> None:
    """Who began a request learns why it ended, and the application learns that its client is gone."""
    before = echo.disconnects
    connection.sendall(HEAD)
    assert read_all(connection).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(HEAD + b"Content-Length: 10\r\n\r\nxx")
        assert read_all(slow).startswith(b"HTTP/1.1 408")
    assert echo.disconnects == before + 1


def test_an_idle_connection_outlives_the_deadlines(connection: socket.socket) -> None:
    """The deadlines are for requests; between them keep-alive decides, and the next request has its full time again."""
    exchange(connection, HEAD + b"Content-Length: 1\r\n\r\na", ending=b"a")
    time.sleep(1.3)
    exchange(connection, HEAD + b"Content-Length: 1\r\n\r\nb", ending=b"b")


def test_stray_line_ends_do_not_keep_a_connection(connection: socket.socket) -> None:
    """Empty lines between requests start the head's clock, and do not move it."""
    exchange(connection, HEAD + b"Content-Length: 1\r\n\r\na", ending=b"a")
    closed = threading.Event()

    def drip() -> None:
        while not closed.wait(0.05):
            accepted(connection, b"\r\n", times=1)

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert read_all(connection) == b""
    finally:
        closed.set()
        dripping.join()


def test_a_slow_answer_has_no_deadline(connection: socket.socket, echo: Echo) -> None:
    """Once a request is complete it is the server that is waited for."""
    echo.let_go.clear()
    connection.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nslow")
    time.sleep(1.3)
    echo.let_go.set()
    exchange(connection, b"", ending=b"slow")


def test_an_answer_under_way_is_finished_before_the_connection_closes(connection: socket.socket, echo: Echo) -> None:
    """Garbage behind a request costs the connection, not the answer, and is answered by nothing."""
    echo.let_go.clear()
    connection.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nslow\0\0\0")
    time.sleep(0.1)
    echo.let_go.set()
    received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"slow")


def test_clients_that_do_not_read_are_dropped(connection: socket.socket) -> None:
    """An answer that is larger than the buffers does not hold its connection for ever."""
    for _ in range(8):
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(2.0)
    received = read_all(connection)
    assert len(received) < 8 * 2_000_000


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X: " + b"a" * 5000 + b"\r\n\r\n",
        HEAD + b"".join(b"X%d: a\r\n" % number for number in range(20)) + b"\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["one long header", "many headers", "long path"],
)
def test_large_heads_are_431(connection: socket.socket, head: bytes) -> None:
    """Header bytes and header count are capped, whole or in pieces."""
    connection.sendall(head)
    assert read_all(connection).startswith(b"HTTP/1.1 431")


def test_an_endless_header_is_cut_off_early(connection: socket.socket) -> None:
    """A header that never ends is refused while it comes in, not when it is complete."""
    connection.sendall(HEAD + b"X: a")
    assert accepted(connection, b"a" * 4096, times=10_000) < 10_000


@pytest.mark.parametrize("flood", [b"1;" + b"e" * 4096, b"0\r\nX: " + b"t" * 4096], ids=["chunk extension", "trailer"])
def test_framing_that_dwarfs_its_body_is_cut_off(connection: socket.socket, flood: bytes) -> None:
    """Chunk extensions and trailers are bytes that the application never sees, so the protocol counts them."""
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + flood)
    assert accepted(connection, b"x" * 4096, times=10_000) < 10_000


def test_trailers_do_not_become_headers(connection: socket.socket, echo: Echo) -> None:
    """What comes after a body cannot change who sent it."""
    exchange(connection, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nt\r\n0\r\nX-API-Key: forged\r\n\r\n", ending=b"t")
    assert b"x-api-key" not in dict(echo.headers)


AMBIGUOUS = {
    "length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "the same length twice": HEAD + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": HEAD + b"Content-Length: 4, 4\r\n\r\nabcd",
    "signed length": HEAD + b"Content-Length: +4\r\n\r\nabcd",
    "two encodings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown encoding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded header": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": HEAD + b"Content-Length : 4\r\n\r\nabcd",
    "null byte": HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
    "bare carriage return": HEAD + b"X: a\rContent-Length: 4\r\n\r\n",
    "no host": b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": HEAD + b"Host: y\r\nContent-Length: 0\r\n\r\n",
    "huge chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk without line end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\naX0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_framing_is_400_and_closes(connection: socket.socket, echo: Echo, request_bytes: bytes) -> None:
    """What two parsers could read in two ways is not answered, and neither is anything behind it."""
    before = len(echo.bodies)
    connection.sendall(request_bytes + HEAD + b"Content-Length: 8\r\n\r\nsmuggled")
    received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1
    assert b"application/problem+json" in received
    assert len(echo.bodies) == before


def test_an_upgrade_is_answered_and_ends_the_connection(connection: socket.socket) -> None:
    """No other protocol is spoken, so nothing behind an upgrade is taken for a request."""
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    connection.sendall(upgrade + HEAD + b"Content-Length: 8\r\n\r\nsmuggled")
    received = read_all(connection)
    assert received.count(b"HTTP/1.1 200") == 1
    assert b"smuggled" not in received


def test_a_long_pipeline_is_refused(connection: socket.socket, echo: Echo) -> None:
    """Requests that wait behind a slow one are capped."""
    echo.let_go.clear()
    before = len(echo.bodies)
    slow = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.sendall(slow * (MAX_PIPELINED + 2))
    time.sleep(0.1)
    echo.let_go.set()
    assert read_all(connection).count(b"HTTP/1.1 200") == 1
    assert len(echo.bodies) == before + 1


def test_a_small_unread_body_keeps_the_connection(connection: socket.socket) -> None:
    """An early answer to a request with an ordinary body costs nobody a new connection."""
    exchange(connection, b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n", ending=b"\r\n\r\n")
    exchange(connection, b"x" * 30_000 + HEAD + b"Content-Length: 1\r\n\r\na", ending=b"a")


def test_a_large_unread_body_closes_the_connection(connection: socket.socket) -> None:
    """An early answer does not make the server read a gigabyte for politeness."""
    exchange(connection, b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", ending=b"\r\n\r\n")
    assert accepted(connection, b"x" * MAX_DISCARDED_BYTES, times=10_000) < 10_000
