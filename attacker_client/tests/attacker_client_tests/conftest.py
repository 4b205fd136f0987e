"""What the tests share: the asyncio backend and a real server in a thread."""

import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn

Message = dict[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Handler = Callable[["Request"], Awaitable["Response"]]


class Request:
    """A request as a handler sees it."""

    def __init__(self, scope: Message, body: bytes) -> None:
        self.path: str = scope["path"]
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.body = body


class Response:
    """A response as a handler gives it: what is not bytes is sent as JSON."""

    def __init__(self, body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = {"content-type": "application/json", **(headers or {})}


def answer(*entries: tuple[str, int, float | None]) -> Response:
    """An answer of the wire format with these (label, class_id, score), best first."""
    predictions = [{"label": label, "class_id": n} | ({} if score is None else {"score": score}) for label, n, score in entries]
    return Response({"id": "q1", "model": {"name": "toy", "version": "1"}, "predictions": predictions, "created": "2026-11-21T00:00:00Z"})


def problem(status: int, title: str, **headers: str) -> Response:
    """An error of the wire format."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response({"title": title, "status": status}, status=status, headers={"content-type": "application/problem+json", **named})


class Naps:
    """A sleep that remembers how long it was asked to wait, and doesn't."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def asgi(handler: Handler) -> App:
    """An ASGI app of one handler."""

    async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        response = await handler(Request(scope, body))
        headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    return app


@contextmanager
def serving(app: App) -> Iterator[str]:
    """A real uvicorn on a free port; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server died while starting"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], str]]:
    """Serve a handler until the test ends; returns its address."""
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(serving(asgi(handler)))


@pytest.fixture
def anyio_backend() -> str:
    """The service and its clients run on asyncio."""
    return "asyncio"
