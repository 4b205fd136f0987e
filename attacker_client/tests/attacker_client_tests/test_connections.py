"""The wires read every kind of HTTP/1.1 response to its end, use a connection again where they may, and say why no answer came."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from attacker_client import connections
from attacker_client.connections import Connections
from attacker_client.http11 import NoAnswer

pytestmark = pytest.mark.anyio
REQUEST = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that speaks bytes; its address and how many requests each connection had."""
    requests: list[int] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        number = len(requests) - 1
        try:
            while await reader.read(len(REQUEST)):
                requests[number] += 1
                await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict", requests


def says(*parts: bytes) -> Talk:
    """Say the same to every request, part by part."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005)

    return talk


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Is: it\r\n\r\nhello",),
        (b"HTTP/1.1 20", b"0 OK\r\nX-Is: it\r\nContent-Le", b"ngth: 5\r\n\r\nhe", b"llo"),
        (b"HTTP/1.1 200 OK\r\nX-Is: it\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Is: it\r\nContent-Length: 5\r\n\r\nhello"),
    ],
    ids=["at once", "in pieces", "chunks", "continue"],
)
async def test_a_response_is_read_to_its_end(parts: tuple[bytes, ...]) -> None:
    """However the bytes come, status, headers and body are whole, and the connection serves the next request."""
    async with listening(says(*parts)) as (url, requests), Connections(url) as wires:
        for _ in range(3):
            response = await wires.post(REQUEST)
            assert (response.status, response.reason, response.body, response.header(b"x-is")) == (200, b"OK", b"hello", "it")
    assert requests == [3]


async def test_a_body_may_end_with_the_connection() -> None:
    """Without a length the end of the connection is the end of the body; the next request gets another connection."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        writer.close()

    async with listening(talk) as (url, requests), Connections(url) as wires:
        assert [(await wires.post(REQUEST)).body for _ in range(2)] == [b"hello", b"hello"]
    assert requests == [1, 1]


async def test_a_connection_to_be_closed_is_not_used_again() -> None:
    """`Connection: close` is believed."""
    async with (
        listening(says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")) as (url, requests),
        Connections(url) as wires,
    ):
        for _ in range(2):
            assert (await wires.post(REQUEST)).body == b"ok"
    assert requests == [1, 1]


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may have closed it while nobody looked."""
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.0)
    async with listening(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as (url, requests), Connections(url) as wires:
        for _ in range(2):
            await wires.post(REQUEST)
    assert requests == [1, 1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "closed before its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "closed before its answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not HTTP"),
    ],
    ids=["nothing", "half a body", "no HTTP"],
)
async def test_what_is_no_answer(said: bytes, why: str) -> None:
    """A connection that ends early and one that speaks something else have their reasons."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with listening(talk) as (url, _), Connections(url) as wires:
        with pytest.raises(NoAnswer, match=why):
            await wires.post(REQUEST)


async def test_an_answer_that_does_not_come_whole_in_time() -> None:
    """Half an answer is given up after the timeout, and its connection with it."""
    async with (
        listening(says(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")) as (url, requests),
        Connections(url, timeout=0.1) as wires,
    ):
        for _ in range(2):
            with pytest.raises(NoAnswer, match="in time"):
                await wires.post(REQUEST)
    assert requests == [1, 1]


async def test_a_cancelled_request_gives_up_its_connection() -> None:
    """Its answer may still come, and must not be taken for the next request's."""
    async with listening(says(b"", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as (url, requests), Connections(url) as wires:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await wires.post(REQUEST)
        assert (await wires.post(REQUEST)).body == b"ok"
    assert requests == [1, 1]


async def test_tls_is_checked() -> None:
    """An https address is spoken to in TLS, and a server that has none is no answer."""
    async with (
        listening(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as (url, _),
        Connections(url.replace("http:", "https:")) as wires,
    ):
        with pytest.raises(NoAnswer, match="no connection") as error:
            await wires.post(REQUEST)
    assert isinstance(error.value.__cause__, ssl.SSLError | ConnectionError)
