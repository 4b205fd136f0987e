"""Micro-batches are taken without waiting, shed in time, and fail closed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import FailedError, OverloadedError
from app.micro_batches import BEHIND, MicroBatches
from defenses.vocabulary import Case, Query
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio

CASE = case_of(64)
QUERIES = CASE.queries


def gated(sizes: list[int]) -> tuple[Callable[[tuple[Query, ...]], Awaitable[Case]], asyncio.Event]:
    """A walk that notes batch sizes and ends only when the gate opens."""
    gate = asyncio.Event()

    async def walk(queries: tuple[Query, ...]) -> Case:
        sizes.append(len(queries))
        await gate.wait()
        return case_of(len(queries))

    return walk, gate


async def as_it_is(case: Case) -> list[tuple[Case, int]]:
    """Defend nothing."""
    return [(case, row) for row in range(len(case.queries))]


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_idle_worker_takes_a_single_query_at_once() -> None:
    """Nobody waits for a batch to fill."""
    sizes: list[int] = []
    walk, gate = gated(sizes)
    batches = MicroBatches(walk, as_it_is, workers=1, max_batch=8, deadline_seconds=5)
    task = asyncio.create_task(batches.submit(QUERIES[0]))
    await settle()
    assert sizes == [1]
    gate.set()
    assert (await task)[1] == 0
    await batches.close()


async def test_a_worker_that_becomes_free_takes_what_is_queued_up_to_the_maximum() -> None:
    """20 queries behind a busy worker make batches of 8, 8 and 4, each with its own row."""
    sizes: list[int] = []
    walk, gate = gated(sizes)
    batches = MicroBatches(walk, as_it_is, workers=1, max_batch=8, deadline_seconds=5)
    tasks = [asyncio.create_task(batches.submit(query)) for query in QUERIES[:1]]
    await settle()
    tasks += [asyncio.create_task(batches.submit(query)) for query in QUERIES[1:21]]
    await settle()
    assert len(batches) == 20
    gate.set()
    rows = [(await task)[1] for task in tasks]
    assert sizes == [1, 8, 8, 4]
    assert rows == [0, *range(8), *range(8), *range(4)]
    await batches.close()


async def test_two_workers_walk_two_batches_at_once() -> None:
    """A second query does not wait for the first."""
    sizes: list[int] = []
    walk, gate = gated(sizes)
    batches = MicroBatches(walk, as_it_is, workers=2, max_batch=8, deadline_seconds=5)
    first = asyncio.create_task(batches.submit(QUERIES[0]))
    await settle()
    second = asyncio.create_task(batches.submit(QUERIES[1]))
    await settle()
    assert sizes == [1, 1]
    gate.set()
    await asyncio.gather(first, second)
    await batches.close()


async def test_a_query_that_waited_too_long_is_shed() -> None:
    """An answer after the deadline helps nobody; the next query still gets one."""
    sizes: list[int] = []
    walk, gate = gated(sizes)
    batches = MicroBatches(walk, as_it_is, workers=1, max_batch=8, deadline_seconds=0.0)
    first = asyncio.create_task(batches.submit(QUERIES[0]))
    await settle()
    with pytest.raises(OverloadedError) as caught:
        await first
    assert caught.value.reason == "deadline"
    assert sizes == []
    gate.set()
    await batches.close()


async def test_a_failed_batch_gives_every_query_an_error_and_the_worker_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Fail closed: a step that raises leaves nobody with an undefended answer, and the failure is in the log."""
    calls = 0

    async def walk(queries: tuple[Query, ...]) -> Case:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a broken step")
        return case_of(len(queries))

    batches = MicroBatches(walk, as_it_is, workers=1, max_batch=8, deadline_seconds=5)
    outcomes = await asyncio.gather(*(batches.submit(query) for query in QUERIES[:3]), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FailedError] * 3
    assert "a broken step" in caplog.text
    assert (await batches.submit(QUERIES[3]))[1] == 0
    await batches.close()


async def test_a_client_that_went_away_costs_no_inference() -> None:
    """A cancelled query is not walked."""
    sizes: list[int] = []
    walk, gate = gated(sizes)
    batches = MicroBatches(walk, as_it_is, workers=1, max_batch=8, deadline_seconds=5)
    first = asyncio.create_task(batches.submit(QUERIES[0]))
    await settle()
    gone, stays = (asyncio.create_task(batches.submit(query)) for query in QUERIES[1:3])
    await settle()
    gone.cancel()
    await settle()
    gate.set()
    await asyncio.gather(first, stays)
    assert sizes == [1, 1]
    await batches.close()


async def test_the_model_takes_the_next_batch_while_the_last_one_is_defended() -> None:
    """The model is never idle for the defences' sake, but no more than a few batches wait for them."""
    sizes: list[int] = []
    walk, gate = gated(sizes)
    gate.set()
    defending = asyncio.Event()

    async def defend(case: Case) -> list[tuple[Case, int]]:
        await defending.wait()
        return await as_it_is(case)

    batches = MicroBatches(walk, defend, workers=1, max_batch=8, deadline_seconds=5)
    tasks = []
    for query in QUERIES[: BEHIND + 2]:
        tasks.append(asyncio.create_task(batches.submit(query)))
        await settle()
    assert sizes == [1] * BEHIND
    defending.set()
    assert [row for _, row in await asyncio.gather(*tasks)] == [*[0] * BEHIND, 0, 1]
    assert sizes == [*[1] * BEHIND, 2]
    await batches.close()


async def test_closing_sheds_what_waits() -> None:
    """Nobody hangs when the service ends."""
    walk, _ = gated([])
    batches = MicroBatches(walk, as_it_is, workers=1, max_batch=1, deadline_seconds=5)
    tasks = [asyncio.create_task(batches.submit(query)) for query in QUERIES[:2]]
    await settle()
    tasks[0].cancel()
    await batches.close()
    with pytest.raises(OverloadedError):
        await tasks[1]
