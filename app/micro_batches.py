"""Micro-batching without waiting: a worker that becomes free takes what is queued, up to a maximum, and never waits for more."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.errors import FailedError, OverloadedError, ProblemError
from defenses.ending_tasks import end
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Case, Query

log = logging.getLogger(__name__)
BEHIND = 3

Inferred = TypeVar("Inferred")
Answered = tuple[Case, int]  # a finished case, and the query's row in it


@dataclass(slots=True, eq=False)
class _Waiting:
    query: Query
    answered: asyncio.Future[Answered]
    since: float


class MicroBatches(Generic[Inferred]):
    """Hand queries in micro-batches to `infer`, `workers` of them at once, and what it makes of them to `defend`, which answers each.

    A worker takes its next micro-batch as soon as the model is free again, while those before are still with the defences; at most
    `BEHIND` a worker are there, so that batches grow where the defences are what is slow. A query that waited longer than
    `deadline_seconds` is shed, one whose batch failed gets an error: none is answered by half.
    """

    def __init__(
        self,
        infer: Callable[[tuple[Query, ...]], Awaitable[Inferred]],
        defend: Callable[[Inferred], Awaitable[Sequence[Answered]]],
        *,
        workers: int,
        max_batch: int,
        deadline_seconds: float,
    ) -> None:
        self._infer, self._defend, self._max_batch, self._deadline = infer, defend, max_batch, deadline_seconds
        self._queue: deque[_Waiting] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._defending: set[asyncio.Task[None]] = set()
        self._workers = [asyncio.create_task(self._work(), name=f"micro-batches-{i}") for i in range(workers)]

    def __len__(self) -> int:
        """How many queries wait."""
        return len(self._queue)

    async def submit(self, query: Query) -> Answered:
        """Queue a query; returns its finished case and its row there. Raises OverloadedError or FailedError."""
        waiting = _Waiting(query, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(waiting)
        self._wake()
        return await waiting.answered

    async def close(self) -> None:
        """Stop the workers; queries that have no answer yet are shed."""
        await end([*self._workers, *self._defending])
        self._fail(self._queue, lambda: OverloadedError("shutdown"))
        self._queue.clear()

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    async def _work(self) -> None:
        while True:
            while not self._queue:
                idle = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle
            while len(self._defending) >= BEHIND * len(self._workers):
                await asyncio.wait(self._defending, return_when=asyncio.FIRST_COMPLETED)
            batch = self._take()
            if batch:
                with self._failing_closed(batch):
                    inferred = await self._infer(tuple(waiting.query for waiting in batch))
                    task = asyncio.create_task(self._answer(batch, inferred))
                    self._defending.add(task)
                    task.add_done_callback(self._defending.discard)

    def _take(self) -> list[_Waiting]:
        oldest = time.monotonic() - self._deadline
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue.popleft()
            if waiting.answered.done():
                continue  # the client went away
            if waiting.since < oldest:
                waiting.answered.set_exception(OverloadedError("deadline"))
            else:
                batch.append(waiting)
        return batch

    async def _answer(self, batch: list[_Waiting], inferred: Inferred) -> None:
        with self._failing_closed(batch):
            for waiting, answered in zip(batch, await self._defend(inferred), strict=True):
                if not waiting.answered.done():
                    waiting.answered.set_result(answered)

    @contextmanager
    def _failing_closed(self, batch: list[_Waiting]) -> Iterator[None]:
        """Give every query of a batch that failed its error; only cancellation goes further."""
        try:
            yield
        except asyncio.CancelledError:
            self._fail(batch, lambda: OverloadedError("shutdown"))
            raise
        except StoreError as error:
            log.error("the store failed: %s", error)  # no traceback: one a batch would fill the disk that is full already
            self._fail(batch, lambda: OverloadedError("store"))
        except Exception:
            log.exception("a micro-batch of %d queries failed", len(batch))
            self._fail(batch, lambda: FailedError("The query could not be answered."))

    @staticmethod
    def _fail(batch: Iterable[_Waiting], error: Callable[[], ProblemError]) -> None:
        for waiting in batch:
            if not waiting.answered.done():
                waiting.answered.set_exception(error())
