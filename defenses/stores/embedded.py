"""The store for one process: SQLite is the truth, FAISS in memory is how it is searched."""

import asyncio
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from defenses.stores.chain import GENESIS, link
from defenses.stores.database import connected, driver_errors, locked
from defenses.stores.deciding import decide
from defenses.stores.founders import Founders
from defenses.stores.protocol import AuditEntry, AuditRecord, ClientSummary, Match, Sighting, StoreError
from defenses.stores.summaries import summaries
from defenses.vocabulary import NEW_CLIENT, ClientRecord, Neighbourhood

_FOUNDERS = """SELECT sequence, perceptual, embedding, first_seen FROM sightings
    WHERE index_id = ? AND neighbourhood = digest ORDER BY sequence"""
_FACTS = "SELECT f.digest, f.client, f.flagged, f.top_class, f.second_class, f.client_queries, f.client_flagged FROM sightings AS f"
_FACTS_BY_SEQUENCE = f"{_FACTS} WHERE f.sequence = ?"
_FACTS_BY_DIGEST = """SELECT s.digest, f.digest, f.client, f.flagged, f.top_class, f.second_class, f.client_queries, f.client_flagged
    FROM sightings AS s LEFT JOIN sightings AS f
    ON f.index_id = s.index_id AND f.digest = s.neighbourhood AND f.sequence BETWEEN ? AND s.sequence
    WHERE s.index_id = ? AND s.digest IN"""
_WRITE_SIGHTINGS = """INSERT INTO sightings VALUES {rows}
    ON CONFLICT (index_id, digest) DO UPDATE SET last_seen = max(last_seen, excluded.last_seen), count = count + 1"""
_WRITE_CLIENTS = """INSERT INTO clients VALUES {rows} ON CONFLICT (client) DO UPDATE SET
    queries = queries + excluded.queries, flagged = flagged + excluded.flagged,
    near_duplicates = near_duplicates + excluded.near_duplicates, altered = altered + excluded.altered,
    first_seen = min(first_seen, excluded.first_seen),
    last_seen = max(last_seen, excluded.last_seen)"""
_RECORDS_OF = "SELECT client, queries, flagged FROM records WHERE index_id = ? AND client IN"
_WRITE_RECORDS = """INSERT INTO records VALUES {rows}
    ON CONFLICT (index_id, client) DO UPDATE SET queries = excluded.queries, flagged = excluded.flagged"""
_RECORDS = "SELECT sequence, CAST(body AS BLOB), CAST(link AS BLOB) FROM audit WHERE sequence > ?"
_OLDEST_RECORDS = f"{_RECORDS} ORDER BY sequence LIMIT ?"
_NEWEST_RECORDS = f"{_RECORDS} ORDER BY sequence DESC LIMIT ?"
_REBUILD_ROWS = 10_000  # at a time
_MOST_VALUES = 30_000  # of one statement; SQLite takes 32,766
_SWEPT = 512  # sequence numbers that one call frees of what was forgotten
_SWEEP = "DELETE FROM sightings WHERE index_id = ? AND sequence BETWEEN ? AND ?"

Result = TypeVar("Result")


class EmbeddedStore:
    """A QueryStore in one SQLite file (write-ahead log, synchronous = NORMAL), and FAISS indexes rebuilt from it at start.

    What was acknowledged survives kill -9: the operating system has it before a call returns. Loss of power may take
    the newest commits (those since the last checkpoint, which comes every 1,000 pages of log), but never a part of one
    and never an older one before a newer one: the audit chain gets shorter and stays whole.

    After the constructor all work runs in one thread, one transaction a call. The audit log and the clients' summaries are
    the file's, not the index's. One process at a time has the file (a lock on PATH.lock): FAISS sees no one else's writes.
    """

    def __init__(
        self, path: Path, *, index: str, audit_key: bytes, perceptual_radius: int, embedding_radius: int, most_neighbourhoods: int,
        retention_seconds: float,
    ) -> None:  # fmt: skip
        """Open or create the file (mode 0600, in a folder of mode 0700) and rebuild the indexes; this blocks until ready.

        Raises StoreError if another process has the file, if its schema version is not ours, or if it can't be read.
        """
        self._path = path
        self._audit_key = audit_key
        self._radii = {"perceptual_radius": perceptual_radius, "embedding_radius": embedding_radius}
        self._most, self._retention = most_neighbourhoods, retention_seconds
        self._closed = False
        with driver_errors(path), ExitStack() as resources:
            resources.callback(os.close, locked(path))
            self._connection = connected(path)
            resources.callback(self._connection.close)
            self._connection.execute("INSERT INTO indexes (name) VALUES (?) ON CONFLICT DO NOTHING", (index,))
            ((self._index_id,),) = self._rows("SELECT id FROM indexes WHERE name = ?", index)
            ((self._sequence,),) = self._rows("SELECT coalesce(max(sequence), 0) FROM sightings")
            ((self._swept,),) = self._rows("SELECT coalesce(min(sequence), 1) FROM sightings WHERE index_id = ?", self._index_id)
            ((sequence, head),) = self._rows("SELECT sequence, link FROM audit ORDER BY sequence DESC LIMIT 1") or [(0, GENESIS)]
            self._head: tuple[int, bytes] = (sequence, head)
            self._rebuild()
            self._resources = resources.pop_all()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @property
    def degraded(self) -> bool:
        """See QueryStore; a file is there or the store fails."""
        return False

    async def find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        """See QueryStore; the indexes are searched once a channel for the whole call, on hit and miss alike."""
        return await self._run(lambda: self._find_or_found(sightings))

    async def neighbourhoods(self) -> int:
        """See QueryStore."""
        return await self._run(lambda: len(self._founders))

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """See QueryStore."""
        await self._run(lambda: self._append_audit(entries))

    async def audit(self, *, after: int = 0, limit: int = 100, newest: bool = False) -> list[AuditRecord]:
        """See QueryStore."""
        query = _NEWEST_RECORDS if newest else _OLDEST_RECORDS
        return [AuditRecord(*row) for row in await self._run(lambda: self._rows(query, after, limit))]

    async def audit_start(self) -> tuple[int, bytes]:
        """See QueryStore; a file keeps all records."""
        return 0, GENESIS

    async def clients(self, *, limit: int = 100) -> list[ClientSummary]:
        """See QueryStore."""
        query = "SELECT * FROM clients ORDER BY queries DESC, client LIMIT ?"
        return [ClientSummary(*row) for row in await self._run(lambda: self._rows(query, limit))]

    async def close(self) -> None:
        """See QueryStore; a second call does nothing."""
        if not self._closed:
            self._closed = True
            with driver_errors(self._path):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._resources.close)
            self._thread.shutdown()

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise StoreError(f"{self._path}: this store is closed")
        with driver_errors(self._path):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def _rebuild(self) -> None:
        self._founders = Founders(**self._radii)
        self._behind = True  # founders are committed that the indexes lack
        founders = self._connection.execute(_FOUNDERS, (self._index_id,))
        while rows := founders.fetchmany(_REBUILD_ROWS):
            self._founders.add(*zip(*rows, strict=True))
        while self._founders.first < self._founders.trim(most=self._most, seconds=self._retention):
            pass
        self._behind = False

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # some errors, a full disk among them, have already rolled it back
                self._connection.execute("ROLLBACK")
            raise

    def _find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        if self._behind:
            self._rebuild()
        first = self._sequence + 1
        with self._transaction():
            records = self._records({sighting.client for sighting in sightings})
            matches = self._matches(sightings, records)
            self._sweep()
            self._write(_WRITE_RECORDS, [(self._index_id, client, r.queries, r.flagged) for client, r in records.items()])
            self._write(
                _WRITE_SIGHTINGS,
                [
                    (sequence, self._index_id, sighting.digest, match.neighbourhood.id, sighting.perceptual, sighting.embedding,
                     sighting.flagged, *sighting.top_classes, sighting.client, sighting.time, sighting.time, 1,
                     match.record.queries, match.record.flagged)
                    for sequence, sighting, match in zip(count(first), sightings, matches)
                ],
            )  # fmt: skip
        self._sequence += len(sightings)
        founders = [
            (sequence, sighting.perceptual, sighting.embedding, sighting.time)
            for sequence, sighting, match in zip(count(first), sightings, matches)
            if not match.channel
        ]
        if founders:
            self._behind = True
            self._founders.add(*zip(*founders, strict=True))
            self._behind = False
        self._founders.trim(most=self._most, seconds=self._retention)
        return matches

    def _matches(self, sightings: Sequence[Sighting], records: dict[str, ClientRecord]) -> list[Match]:
        stored = self._founders.kin(sightings)
        return decide(
            sightings,
            stored=stored,
            siblings=self._founders.siblings(sightings, [at for at, kin in enumerate(stored) if not kin]),
            seen=self._known([sighting.digest for sighting in sightings]),
            records=records,
            founder=lambda sequence: _neighbourhood(*self._rows(_FACTS_BY_SEQUENCE, sequence)[0]),
        )

    def _sweep(self) -> None:
        """Delete some of the sightings that are older than every founder: they, and what they joined, are forgotten."""
        until = min(self._founders.first, self._swept + _SWEPT)
        if self._swept < until:
            self._connection.execute(_SWEEP, (self._index_id, self._swept, until - 1))
            self._swept = until

    def _known(self, digests: Sequence[bytes]) -> dict[bytes, Neighbourhood]:
        query = f"{_FACTS_BY_DIGEST} ({', '.join('?' * len(digests))})"
        found = self._rows(query, self._founders.first, self._index_id, *digests)
        stale = [(self._index_id, digest) for digest, *facts in found if facts[0] is None]
        if stale:  # what they joined is forgotten, and so are they
            self._connection.executemany("DELETE FROM sightings WHERE index_id = ? AND digest = ?", stale)
        return {digest: _neighbourhood(*facts) for digest, *facts in found if facts[0] is not None}

    def _records(self, clients: Collection[str]) -> dict[str, ClientRecord]:
        query = f"{_RECORDS_OF} ({', '.join('?' * len(clients))})"
        known = {client: ClientRecord(queries, flagged) for client, queries, flagged in self._rows(query, self._index_id, *clients)}
        return {client: known.get(client, NEW_CLIENT) for client in clients}

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Write rows of equal length in one statement: each statement lets go of Python's lock, and may wait to get it back."""
        at_once = _MOST_VALUES // max(1, len(rows[0])) if rows else 1
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            places = f"({', '.join('?' * len(part[0]))})"
            self._connection.execute(statement.format(rows=", ".join([places] * len(part))), [value for row in part for value in row])

    def _append_audit(self, entries: Sequence[AuditEntry]) -> None:
        last, head = self._head
        records = []
        for entry in entries:
            last, head = last + 1, link(self._audit_key, head, entry.body)
            records.append((last, entry.body, head))
        with self._transaction():
            self._write("INSERT INTO audit VALUES {rows}", records)
            self._write(_WRITE_CLIENTS, [astuple(summary) for summary in summaries(entries)])
        self._head = (last, head)


def _neighbourhood(digest: bytes, client: str, flagged: int, top: int, second: int, *record: int) -> Neighbourhood:
    return Neighbourhood(digest, client, bool(flagged), (top, second), ClientRecord(*record))
