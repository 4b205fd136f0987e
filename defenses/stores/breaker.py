"""A circuit breaker: nobody waits for a server that does not answer, and somebody looks in the background whether it does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from defenses.ending_tasks import end

log = logging.getLogger(__name__)

PROBE_SECONDS = 0.5


class Breaker:
    """Opens after more than `tolerated` failures in a row; then `probe` runs every half second, and the breaker closes when it returns.

    `what` names in the log what is not possible meanwhile.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], *, what: str, tolerated: int) -> None:
        self._probe, self._what, self._tolerated = probe, what, tolerated
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody should ask just now."""
        return self._probing is not None

    @property
    def is_doubtful(self) -> bool:
        """Whether the last answer did not come."""
        return self.is_open or self._failures > 0

    def succeeded(self) -> None:
        """An answer came in time."""
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """No answer came, or an error."""
        self._failures += 1
        if self._failures > self._tolerated:
            self.open(error)

    def open(self, error: BaseException) -> None:
        """Ask no more until a probe succeeds."""
        if not self._probing:
            log.warning("%s: Redis is away: %r", self._what, error)
            self._probing = asyncio.create_task(self._until_it_answers())

    async def close(self) -> None:
        """Stop probing."""
        if self._probing:
            await end([self._probing])

    async def _until_it_answers(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self._probe()
            except Exception as error:  # whatever it is, it is not over
                log.debug("%s: Redis is still away: %r", self._what, error)
            else:
                break
        self._failures = 0
        self._probing = None
        log.warning("%s: Redis is back", self._what)
