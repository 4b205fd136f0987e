"""What was asked and what was told, kept through kill -9: an intent before each query, each answer before it is used."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from attacker_client.costs import Tally
from attacker_client.errors import LedgerError
from attacker_client.wire import Entry, OracleAnswer

Purpose = Literal["attack", "evaluation", "reference"]
Failure = Literal["bad", "garbled", "refused", "intent"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS labels (class_id INTEGER PRIMARY KEY, label TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS queries (
    digest BLOB PRIMARY KEY,    -- sha256 of the image file as sent
    purpose TEXT NOT NULL,      -- attack, evaluation, reference
    identity TEXT NOT NULL,     -- who asked last
    state TEXT NOT NULL,        -- intent: sent or about to be; answered; bad: the endpoint takes no such image; garbled; refused
    sent_at REAL NOT NULL,      -- seconds since the epoch
    answered_at REAL,
    answer TEXT,                -- {"id", "model", "class_ids", "scores"}
    sent INTEGER NOT NULL DEFAULT 0, bytes_sent INTEGER NOT NULL DEFAULT 0, bytes_received INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, seconds_waiting REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
_BLOCK = 500  # digests a SELECT
_FORMAT = 3  # grows when the same image becomes another file


class Ledger:
    """One campaign's purchases in an SQLite file, of one process at a time.

    What happens to queries is written in a transaction that `commit` ends: many queries share one, and only then does it outlive the
    process, because the operating system has it. After a power cut the last ones may be missing (write-ahead log, synchronous=NORMAL).
    """

    def __init__(self, database: sqlite3.Connection, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        rows = database.execute("SELECT purpose, count(*) FROM queries WHERE state = 'answered' GROUP BY purpose")
        self._bought: dict[str, int] = dict(rows.fetchall())
        self._labels: dict[int, str] = dict(database.execute("SELECT class_id, label FROM labels").fetchall())

    @classmethod
    def open(cls, path: Path, campaign: Mapping[str, Any], *, resume: bool, clock: Callable[[], float] = time.time) -> Self:
        """Open the ledger of a campaign, or begin it; `campaign` is what must not change: target, attack, seed, ... as JSON values.

        Raises LedgerError for a file that exists without `resume`, that is another campaign's, or that another process has open.
        """
        if path.exists() and not resume:
            raise LedgerError(f"{path} exists: go on with --resume, or choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            # Two processes would buy the same images twice: the first keeps the file to itself.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
                database.execute(f"PRAGMA {pragma}")
            _keep_to_the_format(database, path)
            database.executescript(_SCHEMA)
            ledger = cls(database, clock=clock)
            ledger._belong_to(json.loads(json.dumps(dict(campaign))), path)
        except sqlite3.Error as error:
            database.close()
            raise LedgerError(f"{path}: {error}") from error
        except LedgerError:
            database.close()
            raise
        return ledger

    def _belong_to(self, campaign: dict[str, Any], path: Path) -> None:
        kept = self.fact("campaign", campaign)
        different = [name for name in {**kept, **campaign} if kept.get(name) != campaign.get(name)]
        if different:
            said = "; ".join(f"{name} is {campaign.get(name)!r} and was {kept.get(name)!r}" for name in different)
            raise LedgerError(f"{path} is the ledger of another campaign: {said}")
        self.remember("campaign", campaign)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.commit()
        self._database.close()

    @property
    def labels(self) -> Mapping[int, str]:
        """The classes' names by their numbers, as told so far."""
        return self._labels

    def bought(self, purpose: Purpose) -> int:
        """How many answers were bought for a purpose."""
        return self._bought.get(purpose, 0)

    def uncertain(self, purpose: Purpose) -> int:
        """How many queries have neither an answer nor an error: they were under way when the connection or the process ended."""
        count: int = self._database.execute("SELECT count(*) FROM queries WHERE state = 'intent' AND purpose = ?", (purpose,)).fetchone()[0]
        return count

    def bad_images(self, purpose: Purpose) -> int:
        """How many images the endpoint took no answer for: it refused them, or what it said can't be read."""
        query = "SELECT count(*) FROM queries WHERE state IN ('bad', 'garbled') AND purpose = ?"
        count: int = self._database.execute(query, (purpose,)).fetchone()[0]
        return count

    def tally(self, purpose: Purpose) -> Tally:
        """What the queries for a purpose cost, over all processes of the campaign."""
        query = (
            "SELECT total(sent), total(state = 'answered'), total(bytes_sent), total(bytes_received), total(refused),"
            " total(seconds_waiting) FROM queries WHERE purpose = ?"
        )
        sent, answered, out, back, refused, seconds = self._database.execute(query, (purpose,)).fetchone()
        return Tally(int(sent), int(answered), int(out), int(back), int(refused), seconds)

    def known(self, digests: Iterable[bytes]) -> dict[bytes, tuple[str, OracleAnswer | None]]:
        """What needs no asking any more among these digests: purpose and answer, None for a bad image."""
        wanted = list(digests)
        found: dict[bytes, tuple[str, OracleAnswer | None]] = {}
        for start in range(0, len(wanted), _BLOCK):
            block = wanted[start : start + _BLOCK]
            marks = ",".join("?" * len(block))
            query = f"SELECT digest, purpose, answer FROM queries WHERE state IN ('answered', 'bad') AND digest IN ({marks})"  # noqa: S608 - marks
            for digest, purpose, answer in self._database.execute(query, block):
                found[digest] = (purpose, None if answer is None else self._read(answer))
        return found

    def commit(self) -> None:
        """Make what was written outlive the process. Raises LedgerError."""
        try:
            if self._database.in_transaction:
                self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger can't be written: {error}") from error

    def intend(self, digest: bytes, *, purpose: Purpose, identity: str) -> None:
        """Note that a query is about to be sent; it may be once that is committed."""
        self._write(
            "INSERT INTO queries (digest, purpose, identity, state, sent_at, sent) VALUES (?, ?, ?, 'intent', ?, 1) ON CONFLICT DO"
            " UPDATE SET purpose = excluded.purpose, identity = excluded.identity, state = 'intent', sent_at = excluded.sent_at,"
            " sent = sent + 1",
            (digest, purpose, identity, self._clock()),
        )

    def answered(self, digest: bytes, answer: OracleAnswer, cost: Tally, *, purpose: Purpose) -> None:
        """Keep an answer; it may be used once that is committed."""
        for entry in answer.entries:
            if entry.class_id not in self._labels:
                self._write("INSERT OR REPLACE INTO labels VALUES (?, ?)", (entry.class_id, entry.label))
                self._labels[entry.class_id] = entry.label
        self._close(digest, "answered", _as_json(answer), cost)
        self._bought[purpose] = self.bought(purpose) + 1

    def failed(self, digest: bytes, state: Failure, cost: Tally) -> None:
        """Keep how a query ended without an answer; only a bad image is never asked about again. "intent": nobody knows."""
        self._close(digest, state, None, cost)

    def _close(self, digest: bytes, state: str, answer: str | None, cost: Tally) -> None:
        # The intent has counted one request already.
        self._write(
            "UPDATE queries SET state = ?, answer = ?, answered_at = ?, sent = sent + ?, bytes_sent = bytes_sent + ?,"
            " bytes_received = bytes_received + ?, refused = refused + ?, seconds_waiting = seconds_waiting + ? WHERE digest = ?",
            (
                state,
                answer,
                self._clock(),
                cost.sent - 1,
                cost.bytes_sent,
                cost.bytes_received,
                cost.refused,
                cost.seconds_waiting,
                digest,
            ),
        )

    def fact(self, name: str, default: Any = None) -> Any:
        """A fact about the campaign, as it was remembered."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact about the campaign, any JSON value: seconds spent so far, say. Commits."""
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
        self.commit()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN")
        self._database.execute(statement, values)

    def _read(self, answer: str) -> OracleAnswer:
        told = json.loads(answer)
        entries = tuple(Entry(self._labels[n], n, score) for n, score in zip(told["class_ids"], told["scores"], strict=True))
        return OracleAnswer(told["id"], told["model"], entries)


def _keep_to_the_format(database: sqlite3.Connection, path: Path) -> None:
    """Refuse a ledger whose images were other files: of what was bought nothing would be found, and the budget would be spent."""
    began = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
    if began and database.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
        raise LedgerError(f"{path} was written by another version of the client, which made other image files: finish it with that one")
    database.execute(f"PRAGMA user_version = {_FORMAT}")


def _as_json(answer: OracleAnswer) -> str:
    told = {"class_ids": [entry.class_id for entry in answer.entries], "scores": [entry.score for entry in answer.entries]}
    return json.dumps({"id": answer.id, "model": answer.model, **told})
