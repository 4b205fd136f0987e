"""A circuit breaker: nobody waits for a server that does not answer, and somebody looks in the background whether it does."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from defenses.ending_tasks import end

log = logging.getLogger(__name__)

PROBE_SECONDS = 0.5
RELAPSE_SECONDS = 5.0  # a breaker that opens again so soon is not open because one answer was late


class Breaker:
    """Opens at the first failure; then `probe` runs at once and every half second, and the breaker closes when it returns.

    So an answer that was merely late keeps it open for a moment only, and nobody waits behind it meanwhile. Where calls fail and probes
    don't, the next probe waits, so that what is degraded shows. `what` names in the log what is not possible while it is open.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], *, what: str) -> None:
        self._probe, self._what = probe, what
        self._probing: asyncio.Task[None] | None = None
        self._is_closed = False
        self._closed_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether nobody should ask just now."""
        return self._probing is not None

    def open(self, error: BaseException) -> None:
        """Ask no more until a probe succeeds: no answer came, or an error."""
        if not self._probing and not self._is_closed:
            log.warning("%s: Redis is away: %r", self._what, error)
            self._probing = asyncio.create_task(self._until_it_answers())

    async def close(self) -> None:
        """Stop probing, for good."""
        self._is_closed = True
        if self._probing:
            await end([self._probing])

    async def _until_it_answers(self) -> None:
        now = asyncio.get_running_loop().time
        if now() < self._closed_at + RELAPSE_SECONDS:
            await asyncio.sleep(PROBE_SECONDS)
        while True:
            try:
                await self._probe()
                break
            except Exception as error:  # whatever it is, it is not over
                log.debug("%s: Redis is still away: %r", self._what, error)
            await asyncio.sleep(PROBE_SECONDS)
        self._probing, self._closed_at = None, now()
        log.warning("%s: Redis is back", self._what)
