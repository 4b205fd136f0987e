"""The wires to an endpoint: kept-alive HTTP/1.1 connections, one request at a time on each.

httpx's own pool looks at all its connections, with a system call each, on every request: at 32 of them that costs several times what the
request does. Here a free connection is taken from a stack, below httpx, from the layer that httpx itself stands on.
"""

import ssl
from functools import cache
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from attacker_client import wire

Header = tuple[bytes, bytes]


class Connections:
    """Send POST requests to one address, from one source address, on as many connections as there are requests at a time.

    A proxy named in the environment is used, but not for loopback: it would look for that on its own machine.
    """

    def __init__(self, url: str, *, local_address: str | None = None, timeout: float = 30.0) -> None:
        self._url = httpcore.URL(url)
        self._local_address = local_address
        self._proxy = _proxy_for(url)
        self._options = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)}
        self._free: list[httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._free:
            await self._free.pop().aclose()

    async def post(self, body: bytes, headers: list[Header]) -> httpcore.Response:
        """Send a request and read its whole response. Raises httpcore's exceptions; a broken connection is not used again."""
        connection = await self._take()
        try:
            response = await connection.handle_async_request(
                httpcore.Request("POST", self._url, headers=headers, content=body, extensions=self._options)
            )
            try:
                await response.aread()
            finally:
                await response.aclose()
        except BaseException:
            await connection.aclose()
            raise
        self._free.append(connection)
        return response

    async def _take(self) -> httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy:
        while self._free:
            connection = self._free.pop()
            if isinstance(connection, httpcore.AsyncHTTPProxy) or (connection.is_idle() and not connection.has_expired()):
                return connection
            await connection.aclose()
        secure = _tls() if self._url.scheme == b"https" else None
        if self._proxy is not None:
            return httpcore.AsyncHTTPProxy(self._proxy, ssl_context=secure, max_connections=1)
        return httpcore.AsyncHTTPConnection(self._url.origin, ssl_context=secure, local_address=self._local_address)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _proxy_for(url: str) -> str | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if wire.is_loopback(url) or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
