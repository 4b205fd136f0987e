"""One running service: what a request may need, shared by the public and the admin port; `opening.py` makes it."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from app.accounts import Accounts
from app.clients import Clients
from app.errors import OverloadedError, ProblemError
from app.metrics import Metrics
from app.pipeline import Pipeline
from app.policies import Policies, PolicyChanges
from app.quotas import Quotas
from app.settings import Settings
from defenses.stores.protocol import QueryStore
from defenses.vocabulary import Case
from models.bundle import Bundle

RETRY_AFTER_SECONDS = 1

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Service:
    """Everything that a request may need."""

    settings: Settings
    bundle: Bundle
    store: QueryStore
    pipeline: Pipeline
    metrics: Metrics
    admin_token: str
    accounts: Accounts
    clients: Clients
    quotas: Quotas
    policies: Policies
    policy_changes: PolicyChanges
    draining: bool = False
    in_flight: int = 0
    buffered_bytes: int = 0

    async def ask(self, *images: bytes, client: str) -> list[tuple[Case, int]]:
        """Answer images, all of them or none: a request that does not fit among those under way is shed before it costs anything."""
        self.require_room(len(images))
        self.in_flight += len(images)
        try:
            if len(images) == 1:
                return [await self.pipeline.ask(images[0], client=client)]
            return await gather_all(self.pipeline.ask(image, client=client) for image in images)
        finally:
            self.in_flight -= len(images)

    def require_room(self, queries: int) -> None:
        """Shed queries that don't fit among those under way. Raises OverloadedError."""
        if self.in_flight + queries > self.settings.server.queue:
            raise OverloadedError("queue")

    @contextmanager
    def observed(self, route: str) -> Iterator[None]:
        """Time a request, and count what became of it when it gets no answer."""
        started = time.perf_counter()
        try:
            yield
        except ProblemError as error:
            self.metrics.failed(error.outcome, shed=error.reason if isinstance(error, OverloadedError) else None)
            raise
        except Exception:
            self.metrics.failed("failed")
            raise
        finally:
            self.metrics.request_seconds[route].observe(time.perf_counter() - started)


async def gather_all(tasks: Iterable[Awaitable[Result]]) -> list[Result]:
    """Wait for all tasks, then raise the first error if there was one: no query is left running behind an answer."""
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
