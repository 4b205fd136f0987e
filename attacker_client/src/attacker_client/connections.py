"""The wires to an endpoint: kept-alive HTTP/1.1 connections, one request at a time on each.

A general HTTP client costs a third of the CPU time that an endpoint takes to answer, and keeps one on the same machine waiting. Here a
request is one write of finished bytes. No proxies, no redirects, no codings.
"""

import asyncio
import ssl
from functools import cache
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

from attacker_client.http11 import Connection, NoAnswer, Response

_IDLE_SECONDS = 2.0  # below any server's keep-alive: while a student trains nobody notices that a free connection was closed


class Connections:
    """Send requests to the host of a URL, from one source address, on as many connections as there are requests at a time.

    `timeout` bounds in seconds how long a connection takes to be made, and how long a response takes to have come whole.
    """

    def __init__(self, url: str, *, local_address: str | None = None, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, url
        secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if secure else 80)
        self._secure = secure
        self._local_address = None if local_address is None else (local_address, 0)
        self._timeout = timeout
        self._free: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._free:
            self._free.pop().close()
        await asyncio.sleep(0)  # a transport is closed in the loop's next turn

    async def post(self, request: bytes) -> Response:
        """Send a finished request and read its whole response. Raises NoAnswer; a broken connection is not used again."""
        connection = self._idle() or await self._opened()
        response = await connection.exchange(request, timeout=self._timeout)
        if not connection.closed:
            self._free.append(connection)
        return response

    def _idle(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.closed and connection.idle_seconds < _IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _opened(self) -> Connection:
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, self._host, self._port, ssl=tls() if self._secure else None, local_addr=self._local_address
                )
        except OSError as error:  # TimeoutError and those of TLS are some
            raise NoAnswer(f"no connection ({type(error).__name__}: {error})") from error
        return connection


@cache
def tls() -> ssl.SSLContext:
    """Whom to trust: the certificates of SSL_CERT_FILE or SSL_CERT_DIR, where these are set, else those that come with httpx."""
    return httpx.create_ssl_context()
