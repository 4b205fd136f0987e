"""A circuit breaker: nobody waits for a server that does not answer, and somebody looks in the background whether it does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from defenses.ending_tasks import end

log = logging.getLogger(__name__)

PROBE_SECONDS = 0.5


class Breaker:
    """Opens at the first failure; then `probe` runs at once and every half second, and the breaker closes when it returns.

    So an answer that was merely late keeps it open for a moment only, and nobody waits behind it meanwhile. `what` names in the log what
    is not possible while it is open.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], *, what: str) -> None:
        self._probe, self._what = probe, what
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody should ask just now."""
        return self._probing is not None

    def open(self, error: BaseException) -> None:
        """Ask no more until a probe succeeds: no answer came, or an error."""
        if not self._probing:
            self._probing = asyncio.create_task(self._until_it_answers(error))

    async def close(self) -> None:
        """Stop probing."""
        if self._probing:
            await end([self._probing])

    async def _until_it_answers(self, error: BaseException) -> None:
        is_said = False
        while True:
            try:
                await self._probe()
                break
            except Exception as again:  # whatever it is, it is not over
                log.log(logging.DEBUG if is_said else logging.WARNING, "%s: Redis is away: %r, then %r", self._what, error, again)
                is_said = True
            await asyncio.sleep(PROBE_SECONDS)
        self._probing = None
        if is_said:
            log.warning("%s: Redis is back", self._what)
