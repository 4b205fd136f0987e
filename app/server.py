"""Run the public and the admin port in one process, until a signal drains them."""

import asyncio
import contextlib
import faulthandler
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from threadpoolctl import threadpool_limits

from app.admin.application import create_admin
from app.http_protocol import hardened_protocol
from app.public.application import create_app
from app.service import Service
from app.settings import Settings

STUCK_SECONDS = 15.0  # after the time for open requests: what does not close by then never will
SWITCH_INTERVAL_SECONDS = 0.0005  # Python's 5 ms let a decoding thread hold up every other request


class Port(uvicorn.Server):
    """A uvicorn server that leaves signals to the one who runs several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


async def run(settings: Settings, *, announce: Callable[[Service, str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM; then refuse readiness, drain (SIGTERM only), finish what is open, and close the store.

    `announce` is told the service and both addresses once queries are taken. Raises what `open_service` raises, and OSError for a
    port that is taken.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    threadpool_limits(1, user_api="blas")  # the matrices are small: more threads only spin on the cores that answer queries
    app = create_app(settings)
    with _listen(settings.server.host, settings.server.port) as public, _listen(settings.admin.host, settings.admin.port) as admin:
        async with app.router.lifespan_context(app):
            service: Service = app.state.service
            gc.collect()
            gc.freeze()  # what is there now stays: walking through it again and again would stop every request for a tenth of a second
            ports = [Port(_config(app, settings)), Port(_config(create_admin(service), settings))]
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, _stop, service, ports)
            loop.add_signal_handler(signal.SIGTERM, _drain, service, ports)
            async with _running(ports, (public, admin)):
                announce(service, _address(public), _address(admin))


@contextlib.asynccontextmanager
async def _running(ports: list[Port], sockets: tuple[socket.socket, ...]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        for port, listening in zip(ports, sockets, strict=True):
            group.create_task(port.serve([listening]))
        while not all(port.started for port in ports):  # noqa: ASYNC110, uvicorn tells by a flag only
            await asyncio.sleep(0.01)
        yield


def _drain(service: Service, ports: list[Port]) -> None:
    """Be unready, and stop when balancers had time to notice; who signals a second time does not want to wait."""
    seconds = 0.0 if service.draining else service.settings.server.drain_seconds
    service.draining = True
    asyncio.get_running_loop().call_later(seconds, _stop, service, ports)


def _stop(service: Service, ports: list[Port]) -> None:
    """Close both ports. A process that hangs afterwards says where, and ends: whoever restarts it waits for that."""
    service.draining = True
    faulthandler.dump_traceback_later(service.settings.server.shutdown_seconds + STUCK_SECONDS, exit=True)
    for port in ports:
        port.should_exit = True


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    server = settings.server
    protocol: Any = hardened_protocol(header_seconds=server.header_seconds, body_seconds=server.body_seconds)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="warning",
        timeout_keep_alive=server.keep_alive_seconds,
        timeout_graceful_shutdown=server.shutdown_seconds,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything expensive, so that a taken port is said at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise OSError(f"can't listen on {host}:{port}: {error.strerror}") from error
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104, a comparison
    return f"http://{shown}:{port}"
