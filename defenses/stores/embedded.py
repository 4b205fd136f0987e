"""The store for one process: SQLite is the truth, FAISS in memory is how it is searched."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from defenses.stores.chain import GENESIS, link
from defenses.stores.channel import Channel
from defenses.stores.database import connected, driver_errors, locked
from defenses.stores.protocol import AuditEntry, AuditRecord, ClientSummary, Match, Sighting, StoreError
from defenses.vocabulary import Neighbourhood

_FOUNDERS = "SELECT sequence, perceptual, embedding FROM sightings WHERE index_id = ? AND neighbourhood = digest ORDER BY sequence"
_FACTS = "SELECT f.digest, f.client, f.flagged, f.top_class, f.second_class FROM sightings AS f"
_FACTS_BY_SEQUENCE = f"{_FACTS} WHERE f.sequence = ?"
_FACTS_BY_DIGEST = f"""{_FACTS} JOIN sightings AS s ON f.index_id = s.index_id AND f.digest = s.neighbourhood
    WHERE s.index_id = ? AND s.digest = ?"""
_WRITE_SIGHTING = """INSERT INTO sightings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)
    ON CONFLICT (index_id, digest) DO UPDATE SET last_seen = max(last_seen, excluded.last_seen), count = count + 1"""
_WRITE_CLIENT = """INSERT INTO clients VALUES (?, 1, ?, ?, ?, ?, ?) ON CONFLICT (client) DO UPDATE SET
    queries = queries + 1, flagged = flagged + excluded.flagged, near_duplicates = near_duplicates + excluded.near_duplicates,
    altered = altered + excluded.altered, first_seen = min(first_seen, excluded.first_seen),
    last_seen = max(last_seen, excluded.last_seen)"""
_RECORDS = "SELECT sequence, body, link FROM audit WHERE sequence > ?"
_OLDEST_RECORDS = f"{_RECORDS} ORDER BY sequence LIMIT ?"
_NEWEST_RECORDS = f"{_RECORDS} ORDER BY sequence DESC LIMIT ?"
_CHANNELS = ("perceptual", "embedding")  # a tie goes to the former
_REBUILD_ROWS = 10_000  # at a time

Result = TypeVar("Result")


class EmbeddedStore:
    """A QueryStore in one SQLite file (write-ahead log, synchronous = NORMAL), and FAISS indexes rebuilt from it at start.

    What was acknowledged survives kill -9: the operating system has it before a call returns. Loss of power may take
    the newest commits (those since the last checkpoint, which comes every 1,000 pages of log), but never a part of one
    and never an older one before a newer one: the audit chain gets shorter and stays whole.

    After the constructor all work runs in one thread, one transaction a call. The audit log and the clients' summaries are
    the file's, not the index's. One process at a time has the file (a lock on PATH.lock): FAISS sees no one else's writes.
    """

    def __init__(self, path: Path, *, index: str, audit_key: bytes, perceptual_radius: int, embedding_radius: int) -> None:
        """Open or create the file (mode 0600, in a folder of mode 0700) and rebuild the indexes; this blocks until ready.

        Raises StoreError if another process has the file, if its schema version is not ours, or if it can't be read.
        """
        self._path = path
        self._audit_key = audit_key
        self._radii = (perceptual_radius, embedding_radius)
        self._closed = False
        with driver_errors(path), ExitStack() as resources:
            resources.callback(os.close, locked(path))
            self._connection = connected(path)
            resources.callback(self._connection.close)
            self._connection.execute("INSERT INTO indexes (name) VALUES (?) ON CONFLICT DO NOTHING", (index,))
            ((self._index_id,),) = self._rows("SELECT id FROM indexes WHERE name = ?", index)
            ((self._sequence,),) = self._rows("SELECT coalesce(max(sequence), 0) FROM sightings")
            ((sequence, head),) = self._rows("SELECT sequence, link FROM audit ORDER BY sequence DESC LIMIT 1") or [(0, GENESIS)]
            self._head: tuple[int, bytes] = (sequence, head)
            self._rebuild()
            self._resources = resources.pop_all()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        """See QueryStore; the indexes are searched once a channel for the whole call, on hit and miss alike."""
        return await self._run(lambda: self._find_or_found(sightings))

    async def neighbourhoods(self) -> int:
        """See QueryStore."""
        return await self._run(lambda: self._neighbourhoods)

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """See QueryStore."""
        await self._run(lambda: self._append_audit(entries))

    async def audit(self, *, after: int = 0, limit: int = 100, newest: bool = False) -> list[AuditRecord]:
        """See QueryStore."""
        query = _NEWEST_RECORDS if newest else _OLDEST_RECORDS
        return [AuditRecord(*row) for row in await self._run(lambda: self._rows(query, after, limit))]

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
        perceptual_radius, embedding_radius = self._radii
        self._channels = (Channel("perceptual", radius=perceptual_radius, width=8), Channel("embedding", radius=embedding_radius))
        self._neighbourhoods = 0
        self._behind = True  # founders are committed that the indexes lack
        founders = self._connection.execute(_FOUNDERS, (self._index_id,))
        while rows := founders.fetchmany(_REBUILD_ROWS):
            self._remember(*zip(*rows, strict=True))
        self._behind = False

    def _remember(self, sequences: Sequence[int], *codes: Sequence[bytes]) -> None:
        for channel, channel_codes in zip(self._channels, codes, strict=True):
            channel.add(channel_codes, sequences)
        self._neighbourhoods += len(sequences)

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
            matches = self._matches(sightings)
            self._connection.executemany(
                _WRITE_SIGHTING,
                [
                    (sequence, self._index_id, sighting.digest, match.neighbourhood.id, sighting.perceptual, sighting.embedding,
                     sighting.flagged, *sighting.top_classes, sighting.client, sighting.time, sighting.time)
                    for sequence, sighting, match in zip(count(first), sightings, matches)
                ],
            )  # fmt: skip
        self._sequence += len(sightings)
        founders = [
            (sequence, sighting.perceptual, sighting.embedding)
            for sequence, sighting, match in zip(count(first), sightings, matches)
            if not match.channel
        ]
        if founders:
            self._behind = True
            self._remember(*zip(*founders, strict=True))
            self._behind = False
        return matches

    def _matches(self, sightings: Sequence[Sighting]) -> list[Match]:
        codes = ([sighting.perceptual for sighting in sightings], [sighting.embedding for sighting in sightings])
        # Nearest of kin: (age, channel, distance), so that the least is the oldest and a tie goes to the first channel.
        stored: list[list[tuple[int, int, int]]] = [[] for _ in sightings]
        for kind, channel in enumerate(self._channels):
            for kin, near in zip(stored, channel.oldest(codes[kind]), strict=True):
                if near:
                    kin.append((near[0], kind, near[1]))
        alone = [at for at, kin in enumerate(stored) if not kin]
        siblings: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for kind, channel in enumerate(self._channels):
            for later, earlier, distance in channel.pairs([codes[kind][at] for at in alone]):
                siblings[alone[later]].append((alone[earlier], kind, distance))

        matches: list[Match] = []
        seen: dict[bytes, Neighbourhood] = {}
        for at, sighting in enumerate(sightings):
            known = seen.get(sighting.digest) or self._neighbourhood(_FACTS_BY_DIGEST, self._index_id, sighting.digest)
            founding = [kin for kin in siblings.get(at, ()) if not matches[kin[0]].channel]
            if known:
                match = Match(known, "digest", 0)
            elif stored[at]:
                sequence, kind, distance = min(stored[at])
                founder = self._neighbourhood(_FACTS_BY_SEQUENCE, sequence)
                assert founder
                match = Match(founder, _CHANNELS[kind], distance)
            elif founding:
                earlier, kind, distance = min(founding)
                match = Match(matches[earlier].neighbourhood, _CHANNELS[kind], distance)
            else:
                match = Match(Neighbourhood(sighting.digest, sighting.client, sighting.flagged, sighting.top_classes), "", 0)
            seen[sighting.digest] = match.neighbourhood
            matches.append(match)
        return matches

    def _neighbourhood(self, query: str, *values: object) -> Neighbourhood | None:
        row = self._connection.execute(query, values).fetchone()
        return row and Neighbourhood(row[0], row[1], bool(row[2]), (row[3], row[4]))

    def _append_audit(self, entries: Sequence[AuditEntry]) -> None:
        last, head = self._head
        records = []
        for entry in entries:
            last, head = last + 1, link(self._audit_key, head, entry.body)
            records.append((last, entry.body, head))
        with self._transaction():
            self._connection.executemany("INSERT INTO audit VALUES (?, ?, ?)", records)
            self._connection.executemany(
                _WRITE_CLIENT,
                [(e.client, e.flagged, e.near_duplicate, e.altered, e.time, e.time) for e in entries],
            )
        self._head = (last, head)
