"""A task that is told to end ends, also when a cancellation is lost on the way."""

import asyncio
from contextlib import suppress

import pytest

from defenses import ending_tasks
from defenses.ending_tasks import end

pytestmark = pytest.mark.anyio


async def test_a_task_that_loses_a_cancellation_ends_all_the_same() -> None:
    lost: list[None] = []

    async def follow_for_ever() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append(None)

    task = asyncio.create_task(follow_for_ever())
    await asyncio.sleep(0)
    await asyncio.wait_for(end([task]), 10)
    assert task.cancelled()
    assert len(lost) == 1


async def test_what_wait_for_finishes_at_the_same_moment_does_not_keep_a_task_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of the first steps of a loop of `asyncio.wait_for`, as redis-py sends its commands."""
    monkeypatch.setattr(ending_tasks, "AGAIN_SECONDS", 0.01)

    async def follow_for_ever() -> None:
        while True:
            await asyncio.wait_for(asyncio.sleep(0), 1)

    for steps in range(12):
        task = asyncio.create_task(follow_for_ever())
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.wait_for(end([task]), 10)
        assert task.done()


async def test_errors_and_ended_tasks_are_no_matter() -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while tidying up")

    task = asyncio.create_task(fail())
    ended = asyncio.create_task(asyncio.sleep(0))
    await ended
    await end([task, ended])
    with suppress(ValueError):
        await task
    await end([])
    assert task.done()
