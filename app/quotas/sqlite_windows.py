"""Sliding windows in a SQLite file: how the `limits` library counts where there is no Redis."""

import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from limits.aio.storage import SlidingWindowCounterSupport, Storage

SCHEMA = """
CREATE TABLE IF NOT EXISTS windows (
    key TEXT PRIMARY KEY, start REAL NOT NULL, previous INTEGER NOT NULL, current INTEGER NOT NULL, forgotten REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS windows_forgotten ON windows (forgotten);
"""
SAVE = """
INSERT INTO windows VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
SET start = excluded.start, previous = excluded.previous, current = excluded.current, forgotten = excluded.forgotten
"""
FORGET = "DELETE FROM windows WHERE key IN (SELECT key FROM windows WHERE forgotten < ? ORDER BY forgotten LIMIT 2)"
ON_DISK: Final = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"  # what a killed process wrote is there; a power failure may forget


class SqliteWindows(Storage, SlidingWindowCounterSupport):
    """Count two windows a key: the one that runs since the key's first query, and the one before it, as `limits` does in Redis.

    A row is written before its query is answered, in microseconds: memory holds nothing, kill -9 refunds nothing, and two
    processes may share the file. Rows that say nothing any more are deleted as new ones come.

    Time is the system's at start and runs on monotonically, and it never starts before the newest moment in the file: a clock that is
    set back or forth refunds nothing and locks nobody out.
    """

    STORAGE_SCHEME = None  # not by URL
    IS_REMOTE: Final = False

    def __init__(
        self, path: Path | None = None, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(wrap_exceptions=True)
        self._file = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=0.05)
        if path is not None:
            self._file.executescript(ON_DISK)
        self._file.executescript(SCHEMA)
        (newest,) = self._file.execute("SELECT max(start) FROM windows").fetchone()
        self._monotonic, self._offset = monotonic, max(wall(), newest or 0.0) - monotonic()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What `limits` turns into its StorageError."""
        return sqlite3.Error

    def now(self) -> float:
        """Seconds since the epoch, as this process counts them."""
        return self._offset + self._monotonic()

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` queries if the limit allows all of them; refused ones count nothing."""
        if amount > limit:
            return False
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            now = self.now()
            start, previous, current = self._window(key, expiry, now)
            if math.floor(previous * (start + expiry - now) / expiry) + current + amount > limit:
                return False
            self._save(key, start, previous, current + amount, expiry)
            if not previous + current:  # a new row comes, old ones go
                self._file.execute(FORGET, (now,))
            return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The previous window's count and time to live, and the current one's: twice its length when it begins."""
        now = self.now()
        start, previous, current = self._window(key, expiry, now)
        left = start + expiry - now
        return previous, left if previous else 0.0, current, left + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:  # noqa: ARG002, the base class's signature
        """Forget a key."""
        await self.clear(key)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a key's current window, whatever its limit is."""
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            start, previous, current = self._window(key, expiry, self.now())
            current = max(0, current + amount)
            self._save(key, start, previous, current, expiry)
        return current

    async def give_back(self, key: str, expiry: int, amount: int) -> None:
        """Take back what was counted a moment ago."""
        await self.incr(key, expiry, -amount)

    async def get(self, key: str) -> int:
        """The count of a key's newest window."""
        row = self._file.execute("SELECT current FROM windows WHERE key = ?", (key,)).fetchone()
        return row[0] if row else 0

    async def get_expiry(self, key: str) -> float:
        """When a key is forgotten."""
        row = self._file.execute("SELECT forgotten FROM windows WHERE key = ?", (key,)).fetchone()
        return row[0] if row else self.now()

    async def check(self) -> bool:
        """Whether the file can be read."""
        return bool(self._file.execute("SELECT 1").fetchone())

    async def reset(self) -> int:
        """Forget every key."""
        return self._file.execute("DELETE FROM windows").rowcount

    async def clear(self, key: str) -> None:
        """Forget a key."""
        self._file.execute("DELETE FROM windows WHERE key = ?", (key,))

    async def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _window(self, key: str, expiry: int, now: float) -> tuple[float, int, int]:
        """When the window that runs now began, the count of the one before it, and its own."""
        row = self._file.execute("SELECT start, previous, current FROM windows WHERE key = ?", (key,)).fetchone()
        if row is None or now >= row[0] + 2 * expiry:
            return now, 0, 0
        start, previous, current = row
        return (start, previous, current) if now < start + expiry else (start + expiry, current, 0)

    def _save(self, key: str, start: float, previous: int, current: int, expiry: int) -> None:
        self._file.execute(SAVE, (key, start, previous, current, start + 2 * expiry))
