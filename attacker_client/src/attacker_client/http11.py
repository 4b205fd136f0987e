"""One HTTP/1.1 connection; responses are read by the parser of Node.js (httptools, llhttp)."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import httptools

Header = tuple[bytes, bytes]


class NoAnswer(Exception):  # noqa: N818 - reads as what happened
    """No response came: no connection, a broken one, none in time, or what came isn't HTTP."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response, read to its end; `reason` is the status line's text."""

    status: int
    reason: bytes
    headers: list[Header]
    body: bytes

    def header(self, name: bytes) -> str | None:
        """A header's value by its name in small letters."""
        return next((value.decode("latin-1") for each, value in self.headers if each.lower() == name), None)


@dataclass(slots=True)
class _Parts:
    """A response as far as it has come."""

    reason: bytes = b""
    headers: list[Header] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    ends_with_connection: bool = False  # neither Content-Length nor chunks say where its body ends


class Connection(asyncio.Protocol):
    """One connection with one request under way at most; httptools calls it back with the parts of a response."""

    def __init__(self) -> None:
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Response] | None = None
        self._parts = _Parts()
        self._free_since = self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle_seconds(self) -> float:
        """How long ago the last response came."""
        return self._loop.time() - self._free_since

    async def exchange(self, request: bytes, *, timeout: float) -> Response:  # noqa: ASYNC109 - one timer serves many requests
        """Send a request and wait for its response. Raises NoAnswer."""
        assert self._waiting is None, "one request at a time"
        if self.closed:
            raise NoAnswer("the connection was closed")
        self._parts = _Parts()
        self._waiting = self._loop.create_future()
        self._deadline = self._loop.time() + timeout
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)
        self._transport.write(request)
        try:
            return await self._waiting
        except BaseException:
            self.close()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """Give it up, whatever is under way."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not HTTP ({error})")

    def connection_lost(self, error: Exception | None) -> None:
        """Of asyncio."""
        self.closed = True
        if error is None and self._parts.ends_with_connection:
            self.on_message_complete()
        self._fail(f"the connection broke ({error})" if error else "the connection was closed before its answer")

    def on_status(self, reason: bytes) -> None:
        """Of httptools."""
        self._parts.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools."""
        self._parts.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Of httptools."""
        named = {name.lower() for name, _ in self._parts.headers}
        self._parts.ends_with_connection = not named & {b"content-length", b"transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        """Of httptools."""
        self._parts.body.append(body)

    def on_message_complete(self) -> None:
        """Of httptools."""
        status = self._parser.get_status_code()
        parts, self._parts = self._parts, _Parts()
        if status < 200:
            return  # 100 Continue and its like: the response is still to come
        if not self._parser.should_keep_alive():
            self.close()
        self._free_since = self._loop.time()
        if self._waiting is None:
            self.close()  # an answer that nobody asked for
        elif not self._waiting.done():
            self._waiting.set_result(Response(status, parts.reason, parts.headers, b"".join(parts.body)))

    def _look_at_the_clock(self) -> None:
        # One timer a connection, moved on when it goes off: to cancel one a request costs more than all of the parsing.
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)
        else:
            self._fail("no answer in time")

    def _fail(self, why: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NoAnswer(why))
        if not self.closed:
            self.close()
