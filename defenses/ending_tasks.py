"""Ending background tasks for good."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.5  # between two cancellations of a task that still runs: what it has to tidy up may take a moment


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until every one of them has ended, however it ends.

    Once is not enough: `asyncio.wait_for` of Python 3.11 loses a cancellation that arrives while what it waits for is done, and drivers
    wait with it, redis-py for every command. A task that follows something for ever would go on, and whoever waits for its end hang.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=AGAIN_SECONDS)
