"""Waiting for an answer from outside no longer than is bearable."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

LATE_SECONDS = 0.005  # a timer that fires later than this tells of a busy process

Result = TypeVar("Result")


async def within(seconds: float, answer: Awaitable[Result]) -> Result:
    """What `answer` returns, or TimeoutError after `seconds`; it is cancelled then.

    Where the event loop itself was late, the answer may long be there and nobody has looked: it gets as much time again, up to `seconds`.
    Else a busy moment of this process would pass for an outage of another one.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(answer)
    task.add_done_callback(_look)
    started = loop.time()
    try:
        await asyncio.wait({task}, timeout=seconds)
        late = loop.time() - started - seconds
        if not task.done() and late > LATE_SECONDS:
            await asyncio.wait({task}, timeout=min(late, seconds))
        if not task.done():
            raise TimeoutError(f"no answer in {seconds:g} s")
        return task.result()
    finally:
        task.cancel()


def _look(task: asyncio.Future[Result]) -> None:
    """Look at an error that comes after everybody has left: asyncio would log it as never retrieved."""
    if not task.cancelled():
        task.exception()
