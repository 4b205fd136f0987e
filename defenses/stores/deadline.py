"""Waiting for an answer from outside no longer than is bearable."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

LATE_SECONDS = 0.005  # a timer that fires later than this tells of a busy process
LOOKS = 20  # turns of the event loop, in which a driver takes an answer from its socket to its caller

Result = TypeVar("Result")


async def within(seconds: float, answer: Awaitable[Result]) -> Result:
    """What `answer` returns, or TimeoutError after `seconds`; it is cancelled then.

    Where the event loop itself was late, the answer may long be there and nobody has looked: then it is looked for, without waiting
    any longer. Else a busy moment of this process would pass for an outage of another one.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(answer)
    task.add_done_callback(_look)
    started = loop.time()
    try:
        await asyncio.wait({task}, timeout=seconds)
        if loop.time() - started - seconds > LATE_SECONDS:
            for _ in range(LOOKS):
                if task.done():
                    break
                await asyncio.sleep(0)
        if not task.done():
            raise TimeoutError(f"no answer in {seconds:g} s")
        return task.result()
    finally:
        task.cancel()


def _look(task: asyncio.Future[Result]) -> None:
    """Look at an error that comes after everybody has left: asyncio would log it as never retrieved."""
    if not task.cancelled():
        task.exception()
