"""A3: clients that take their time."""

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.load import Load, Target, closed_loop, in_own_process
from tests.abuse import FULL
from tests.abuse.images import encode, picture
from tests.server import RunningServer

HALF_HEADS, SLOW_BODIES, SILENT = (1000, 200, 200) if FULL else (100, 30, 30)
SECONDS = 60.0 if FULL else 4.0
HEADER_SECONDS, BODY_SECONDS = (5.0, 15.0) if FULL else (1.0, 3.0)
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow this process as many sockets as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def linger(port: int, opening: bytes, drip: bytes, *, after: float, until: float) -> list[float]:
    """From `after` seconds on connect, send `opening`, then `drip` twice a second until the server closes; again and again.

    Returns how long each connection lasted (s).
    """
    lifetimes: list[float] = []
    await asyncio.sleep(after)
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            writer.write(opening)
            closed = asyncio.ensure_future(reader.read())
            while not (await asyncio.wait([closed], timeout=0.5))[0]:
                writer.write(drip)
            writer.close()
            closed.exception()
        lifetimes.append(time.monotonic() - began)
    return lifetimes


async def ask(server: RunningServer, *, seconds: float) -> Load:
    """Ask valid questions one after the other, from a process that has nothing to do with the attackers'."""
    return await asyncio.to_thread(
        in_own_process, closed_loop, Target(server.port), [encode(picture(3), "JPEG")], concurrency=1, seconds=seconds
    )


@pytest.mark.abuse
@pytest.mark.anyio
@pytest.mark.usefixtures("many_files")
async def test_slow_clients_are_closed_and_hurt_nobody(start: Callable[..., RunningServer], figure: Callable[..., None]) -> None:
    """Half heads and silent sockets end at the header's deadline, slow bodies at the body's; honest requests go on being answered.

    Full length also asserts times: closed within a second of the deadline, and honest p99 at most twice what it was.
    """
    limits = ("--set", f"server.header_seconds={HEADER_SECONDS}", "--set", f"server.body_seconds={BODY_SECONDS}")
    server = await asyncio.to_thread(start, *limits)
    usual = await ask(server, seconds=SECONDS / 4)
    until = time.monotonic() + SECONDS
    slow_body = HEAD + b"Content-Length: 30000\r\n\r\n"
    kinds = {"heads": (HALF_HEADS, HEAD, b"X"), "bodies": (SLOW_BODIES, slow_body, b"x"), "silent": (SILENT, b"", b"")}
    attackers = {
        kind: [
            asyncio.ensure_future(linger(server.port, opening, drip, after=HEADER_SECONDS * one / number, until=until))
            for one in range(number)
        ]
        for kind, (number, opening, drip) in kinds.items()
    }
    meanwhile = await ask(server, seconds=SECONDS)
    lasted = {kind: [seconds for one in await asyncio.gather(*tasks) for seconds in one] for kind, tasks in attackers.items()}
    assert min(lasted["bodies"]) > HEADER_SECONDS
    assert max(lasted["heads"] + lasted["silent"]) < BODY_SECONDS
    assert meanwhile.statuses.keys() == {200}
    assert not meanwhile.dropped
    heads, bodies = max(lasted["heads"] + lasted["silent"]), max(lasted["bodies"])
    figure(f"closed after at most {heads:.1f} s and {bodies:.1f} s", met=heads <= HEADER_SECONDS + 1 and bodies <= BODY_SECONDS + 1)
    before, after = usual.latency_ms(99), meanwhile.latency_ms(99)
    assert "Traceback" not in server.log_text()
    figure(f"valid p99 {after:.1f} ms, {after / before:.2f} x baseline", met=after <= 2 * before)
