"""uvicorn's HTTP/1.1 protocol with what it lacks: deadlines for heads and bodies, caps, and no ambiguous framing."""

from asyncio import TimerHandle
from http import HTTPStatus
from math import inf
from typing import Any, Final, Literal, Never

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.bounded_reads import READ_BYTES, BoundedReads

MAX_DISCARDED_BYTES: Final = 65_536  # of a body whose request is answered already: a small one must not cost its sender the connection
MAX_PIPELINED: Final = 32  # requests waiting behind the one that is being answered: each costs us more memory than its sender


class RefusalError(Exception):
    """Stops the parser; it replaces whatever its callbacks raise by an error of its own, so the status waits in the protocol."""


class HardenedProtocol(HttpToolsProtocol):
    """Closes connections that dawdle, flood or speak ambiguous HTTP; `hardened_protocol` makes it complete.

    A connection has one timer, which sleeps at most `header_seconds` and looks at the deadline when it wakes: requests move the
    deadline, never the timer. Idle keep-alive stays uvicorn's business. A refusal is an RFC 9457 problem and closes the connection,
    because behind a request that was not understood nothing can be trusted to be a request.
    """

    header_seconds: float = 5.0
    body_seconds: float = 15.0
    max_header_bytes: int = 16_384
    max_headers: int = 100
    read_buffer: memoryview

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading: Literal["nothing", "head", "body"] = "nothing"
        self._began = 0.0
        self._deadline = inf
        self._timer: TimerHandle | None = None
        self._framing_bytes = 0  # of the message being read: everything but its body
        self._body_bytes = 0
        self._answering: RequestResponseCycle | None = None
        self._refusal: HTTPStatus | None = None
        self._deaf = False

    def connection_made(self, transport: Any) -> None:
        """Start the clock: who says nothing has `header_seconds` too."""
        super().connection_made(transport)
        transport.set_protocol(BoundedReads(self, self.read_buffer))
        self._expect_by(self.loop.time() + self.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer, which would keep the connection in memory."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came in. Byte limits are exact to one read of the socket."""
        self._unset_keepalive_if_required()
        if self._deaf or self.transport.is_closing():
            return
        if self._deadline == inf:
            self._expect_by(self.loop.time() + self.header_seconds)  # stray line ends start the clock as well
        self._framing_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._answer_and_close()  # what follows is in another protocol
        except httptools.HttpParserError:
            self._refuse(self._refusal or HTTPStatus.BAD_REQUEST)
        else:
            self._framing_bytes = max(self._framing_bytes, 0)
            if self._reading == "body" and not self.cycle.response_complete:
                self.flow.pause_reading()  # until the application asks for more: it judges each piece before the next is read
            if self._framing_bytes > self.max_header_bytes + self._body_bytes:  # endless heads, trailers, chunk extensions
                in_head = self._reading == "head"
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if in_head else HTTPStatus.BAD_REQUEST)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._reading = "head"
        self._framing_bytes = self._body_bytes = 0
        self._began = self.loop.time()
        self._expect_by(self._began + self.header_seconds)

    def on_headers_complete(self) -> None:
        """Refuse what is too large or can be read in two ways (RFC 9112, sections 3.2 and 6.3); let the rest run."""
        size, hosts, lengths, encodings = len(self.url), 0, 0, []
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                encodings.append(value.lower())
        if size > self.max_header_bytes or len(self.headers) > self.max_headers:
            self._stop_parsing(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if lengths + len(encodings) > 1 or encodings not in ([], [b"chunked"]) or hosts > 1:
            self._stop_parsing(HTTPStatus.BAD_REQUEST)
        if hosts == 0 or encodings:
            current = self.parser.get_http_version() == "1.1"
            if (current and hosts == 0) or (encodings and not current):
                self._stop_parsing(HTTPStatus.BAD_REQUEST)
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop_parsing(HTTPStatus.SERVICE_UNAVAILABLE)
        super().on_headers_complete()
        self.headers = []  # trailers end here, not among the headers of the request
        self._reading = "body"
        self._deadline = self._began + self.body_seconds

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a body; drop it, up to a limit, if its request is answered already."""
        self._framing_bytes -= len(body)
        self._body_bytes += len(body)
        if not self.cycle.response_complete:
            super().on_body(body)
        elif self._body_bytes > MAX_DISCARDED_BYTES:
            self._stop_parsing(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def on_message_complete(self) -> None:
        """Stop the clock: from here on it is the server that takes its time."""
        super().on_message_complete()
        self._reading = "nothing"
        self._deadline = inf

    def on_response_complete(self) -> None:
        """Give a closing connection time to drain, and start to count what is discarded of the request's body."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_by(self.loop.time() + self.header_seconds)
        elif self._reading == "body" and self.cycle is self._answering:
            self._body_bytes = 0

    def pause_writing(self) -> None:
        """Give a client that does not read its answers `body_seconds`."""
        super().pause_writing()
        self._expect_by(self.loop.time() + self.body_seconds)

    def resume_writing(self) -> None:
        """Go on writing, and stop the clock unless a request is being read."""
        super().resume_writing()
        if self._reading == "nothing" and not self.transport.is_closing():
            self._deadline = inf

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _should_upgrade(self) -> bool:
        return False

    def _stop_parsing(self, status: HTTPStatus) -> Never:
        self._refusal = status
        raise RefusalError

    def _expect_by(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        left = self._deadline - self.loop.time()
        if left > 0:
            if self._deadline < inf:
                self._timer = self.loop.call_later(min(left, self.header_seconds), self._look_at_the_clock)
        elif self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()  # nobody is going to read the rest
        elif self._reading == "nothing":
            self._answer_and_close()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        """Refuse the request being read, silently if others are to be answered before it or its own answer is out."""
        request = self.cycle if self._reading == "body" else None
        if request is not self._answering and self._is_answering():
            self._answer_and_close()
        elif request is not None and request.response_started:
            self._close()
        else:
            if request is not None:
                request.disconnected = True
                request.message_event.set()
            self._write_problem(status)

    def _answer_and_close(self) -> None:
        """Read no more, and close once the request under way, if there is one, is answered."""
        self._deaf = True
        self._deadline = inf
        self.pipeline.clear()
        if self._answering is not None and self._is_answering():
            self._answering.keep_alive = False
            self.flow.pause_reading()
        else:
            self._close()

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _write_problem(self, status: HTTPStatus) -> None:
        body = orjson.dumps(
            {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": status.description or status.phrase}
        )
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            head += b"retry-after: 1\r\n"
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self._close()

    def _close(self) -> None:
        self._deaf = True
        self.transport.close()
        self._expect_by(self.loop.time() + self.header_seconds)


def hardened_protocol(
    *, header_seconds: float = 5.0, body_seconds: float = 15.0, max_header_bytes: int = 16_384, max_headers: int = 100
) -> type[HardenedProtocol]:
    """The protocol with these limits, as uvicorn's `http` option takes it: it wants a class.

    `header_seconds` run from the opening of a connection or the first byte of a request, `body_seconds` from that byte too.
    """
    limits = {
        "header_seconds": header_seconds,
        "body_seconds": body_seconds,
        "max_header_bytes": max_header_bytes,
        "max_headers": max_headers,
        "read_buffer": memoryview(bytearray(READ_BYTES)),
    }
    return type("ConfiguredProtocol", (HardenedProtocol,), limits)
