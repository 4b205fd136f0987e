"""Which limits a query counts against, and how far each is used."""

import math
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute

OwnLimits = tuple[int | None, int | None]  # of one account, a minute and a day; None is everyone's


class _Counted:
    """Windows whose key leaves the limit's amount out: a limit that is changed refunds nothing."""

    def key_for(self, *identifiers: bytes | str | float) -> str:
        return "/".join(str(one) for one in identifiers)


class PerMinute(_Counted, RateLimitItemPerMinute):
    """So many queries a minute."""


class PerDay(_Counted, RateLimitItemPerDay):
    """So many queries a day."""


@dataclass(frozen=True, slots=True)
class Window:
    """One limit: a client's, or that of all clients together, which has no name because how much others ask is nobody's business."""

    name: str
    item: RateLimitItem
    path: tuple[str, ...]

    @property
    def key(self) -> str:
        """Where it is counted."""
        return self.item.key_for(*self.path)


@dataclass(frozen=True, slots=True)
class Limits:
    """Most queries a minute and a day: of each client, and of all clients together. None is no limit."""

    per_minute: int | None = None
    per_day: int | None = None
    total_per_minute: int | None = None
    total_per_day: int | None = None

    def windows(self, client: str, own: OwnLimits = (None, None)) -> tuple[Window, ...]:
        """What a client's query counts in, the client's own windows first: who is refused there takes nothing from all."""
        minute, day = own
        minute = self.per_minute if minute is None else minute
        day = self.per_day if day is None else day
        found = []
        if minute is not None:
            found.append(Window("minute", PerMinute(minute), ("client", client, "minute")))
        if day is not None:
            found.append(Window("day", PerDay(day), ("client", client, "day")))
        if self.total_per_minute is not None:
            found.append(Window("", PerMinute(self.total_per_minute), ("total", "minute")))
        if self.total_per_day is not None:
            found.append(Window("", PerDay(self.total_per_day), ("total", "day")))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a window is used: the count of the window that runs and of the one before it, and the seconds until each ends its role.

    Used are previous * previous_left / seconds, rounded down, + current queries.
    """

    limit: int
    seconds: int
    previous: int
    previous_left: float
    current: int
    current_left: float

    @property
    def remaining(self) -> int:
        """Queries that may be asked now."""
        used = math.floor(self.previous * self.previous_left / self.seconds) + self.current
        return max(0, self.limit - used)

    def wait(self, queries: int) -> int:
        """Whole seconds until so many may be asked at once, if nobody asks meanwhile; a window's length for more than the limit."""
        if queries <= self.remaining:
            return 0
        if queries > self.limit:
            return self.seconds
        free = self.limit - queries + 1  # used must come below it
        if free > self.current:
            return _above(self.previous_left - (free - self.current) * self.seconds / self.previous)
        return _above(self.current_left + self.seconds - free * self.seconds / self.current)


def _above(seconds: float) -> int:
    return max(1, math.floor(seconds) + 1)
