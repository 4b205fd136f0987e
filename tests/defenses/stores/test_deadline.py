"""Waiting for an answer."""

import asyncio
import threading
import time

import pytest

from defenses.stores.deadline import within

pytestmark = pytest.mark.anyio


async def test_an_answer_in_time_is_returned_and_an_error_raised() -> None:
    """What comes, comes as it is."""
    assert await within(5, asyncio.sleep(0.001, "here")) == "here"

    async def fails() -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        await within(5, fails())


async def test_what_does_not_come_is_given_up_and_cancelled() -> None:
    """Nothing goes on behind a TimeoutError."""
    cancelled = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        await within(0.01, never())
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_a_busy_process_does_not_blame_the_other_side() -> None:
    """An answer that came while the event loop was held up is taken, however late its timer fires."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    async def ask() -> str:
        threading.Timer(0.02, lambda: loop.call_soon_threadsafe(arrived.set_result, None)).start()
        loop.call_soon(time.sleep, 0.3)
        await arrived
        for _ in range(10):  # as many steps as a driver takes from bytes to a result
            await asyncio.sleep(0)
        return "here"

    assert await within(0.05, ask()) == "here"


async def test_who_is_cancelled_cancels_what_he_waited_for() -> None:
    """A request that is given up leaves no command running."""
    cancelled = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.create_task(within(60, never()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    async with asyncio.timeout(5):
        await cancelled.wait()
