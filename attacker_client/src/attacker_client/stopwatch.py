"""How long a campaign took, over all its processes."""

import time
from collections.abc import Callable
from typing import Self

from attacker_client.ledger import Ledger


class Stopwatch:
    """Seconds that a campaign took, those before interruptions too: the ledger remembers them, at most `every` seconds late."""

    def __init__(self, ledger: Ledger, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._every = every
        self._clock = clock
        self._before: float = ledger.fact("seconds", 0.0)
        self._began = self._kept = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._ledger.remember("seconds", self.seconds)

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self._before + self._clock() - self._began

    def tick(self) -> None:
        """Have the ledger remember them, if that was long ago."""
        if self._clock() - self._kept >= self._every:
            self._kept = self._clock()
            self._ledger.remember("seconds", self.seconds)
