"""The evidence vault: watermarked answers and their images in one SQLite file, committed to in a chain that anybody can check."""

import hashlib
import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from defenses.evidence.trigger import Trigger, TriggerError
from defenses.stores.database import driver_errors
from defenses.stores.protocol import StoreError
from defenses.vocabulary import Bits

SCHEMA_VERSION = 1
GENESIS = bytes(32)  # what comes before the first link
WAIT_SECONDS = 10.0  # for another replica that writes the same file
_SCHEMA = (
    """CREATE TABLE triggers (
    sequence INTEGER PRIMARY KEY, time REAL NOT NULL, commitment BLOB NOT NULL, link BLOB NOT NULL,
    model TEXT, client TEXT, neighbourhood TEXT, image BLOB, body BLOB, UNIQUE (model, client, neighbourhood)
)""",
    "CREATE INDEX triggers_image ON triggers (image)",
    "CREATE TABLE images (digest BLOB PRIMARY KEY, file BLOB NOT NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_FORGET = """UPDATE triggers SET model = NULL, client = NULL, neighbourhood = NULL, image = NULL, body = NULL
    WHERE body IS NOT NULL AND time < ?"""
_ORPHANS = "DELETE FROM images WHERE digest NOT IN (SELECT image FROM triggers WHERE image IS NOT NULL)"
_FULLEST = """SELECT client FROM triggers JOIN images ON image = digest GROUP BY client ORDER BY sum(length(file)) DESC LIMIT 1"""
_OLDEST_OF = "SELECT DISTINCT digest, length(file) FROM triggers JOIN images ON image = digest WHERE client = ? ORDER BY sequence LIMIT ?"
_CLEARED = 64  # images at a time


class Vault:
    """Triggers and their images.

    link = SHA-256(previous link || SHA-256(trigger)), and a trigger names its image by digest: whoever was given the newest link, the head,
    can later tell that no trigger was invented, changed or left out before it. That is worth as much as the head's keeper: hand it to
    somebody whom the suspect must believe. What is forgotten leaves its commitment behind, so the chain stays whole.

    Every method may raise StoreError. Several processes may have the file open.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file, or create it with mode 0600. Raises StoreError."""
        self.path = path
        with driver_errors(path):
            if not read_only:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)
            mode = "ro" if read_only else "rw"
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_SECONDS
            )
            try:
                self._prepare(read_only=read_only)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, *, read_only: bool) -> None:
        version_of = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        if not read_only:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            with self._written():
                if self._connection.execute(version_of).fetchone() == (0, 0):
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
        version, _ = self._connection.execute(version_of).fetchone()
        if version != SCHEMA_VERSION:
            raise StoreError(f"{self.path}: evidence of schema version {version}, where this release reads version {SCHEMA_VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def append(self, seen: Sequence[tuple[Trigger, Bits]]) -> int:
        """Commit to triggers with their pixels (height, width, 3), in one transaction; how many were new.

        A client's second answer about one neighbourhood adds nothing.
        """
        with self._written():
            sequence, link = self.head()
            before = sequence
            for trigger, pixels in seen:
                key = (trigger.model, trigger.client, trigger.neighbourhood)
                known = "SELECT 1 FROM triggers WHERE model = ? AND client = ? AND neighbourhood = ?"
                if self._connection.execute(known, key).fetchone():
                    continue
                body = trigger.to_json()
                commitment = hashlib.sha256(body).digest()
                sequence, link = sequence + 1, linked(link, commitment)
                image = bytes.fromhex(trigger.image)
                row = (sequence, trigger.time, commitment, link, *key, image, body)
                self._connection.execute("INSERT INTO triggers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
                self._connection.execute("INSERT INTO images VALUES (?, ?) ON CONFLICT DO NOTHING", (image, _png(pixels)))
        return sequence - before

    def head(self) -> tuple[int, bytes]:
        """Sequence number and link of the newest trigger; (0, 32 zero bytes) where there is none."""
        with driver_errors(self.path):
            row = self._connection.execute("SELECT sequence, link FROM triggers ORDER BY sequence DESC LIMIT 1").fetchone()
        return (int(row[0]), bytes(row[1])) if row else (0, GENESIS)

    def triggers(self, *, until: bytes | None = None) -> list[Trigger]:
        """All triggers that are not forgotten, oldest first; those up to the one with the link `until`, if it is given.

        Checks the chain on the way. Raises StoreError where a record doesn't fit it, or no record has that link.
        """
        found: list[Trigger] = []
        previous = GENESIS
        if until == GENESIS:
            return found
        with driver_errors(self.path):
            rows = self._connection.execute("SELECT sequence, commitment, link, body FROM triggers ORDER BY sequence")
            for expected, (sequence, commitment, link, body) in enumerate(rows, start=1):
                kept = body is None or hashlib.sha256(body).digest() == commitment
                if sequence != expected or not kept or linked(previous, commitment) != link:
                    raise StoreError(
                        f"{self.path}: trigger {expected} does not fit the chain: it, or one before it, was changed or removed"
                    )
                previous = link
                if body is not None:
                    found.append(_read(self.path, expected, body))
                if link == until:
                    return found
        if until is not None:
            raise StoreError(f"{self.path}: no trigger has the link {until.hex()}: the evidence was cut off, or is another deployment's")
        return found

    def pixels(self, trigger: Trigger) -> Bits | None:
        """The image that was asked about, (height, width, 3); None where it was cleared away. Raises StoreError where it is another."""
        with driver_errors(self.path):
            row = self._connection.execute("SELECT file FROM images WHERE digest = ?", (bytes.fromhex(trigger.image),)).fetchone()
            if row is None:
                return None
            try:
                with Image.open(io.BytesIO(row[0]), formats=("PNG",)) as opened:
                    pixels = np.asarray(opened.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise StoreError(f"{self.path}: the image {trigger.image} can't be read: {error}") from error
        if hashlib.sha256(pixels.tobytes()).hexdigest() != trigger.image:
            raise StoreError(f"{self.path}: the image {trigger.image} is not the one that was committed to")
        return pixels

    def clients(self) -> dict[str, int]:
        """How many triggers each client has, the most first."""
        query = "SELECT client, count(*) FROM triggers WHERE client IS NOT NULL GROUP BY client ORDER BY count(*) DESC, client"
        with driver_errors(self.path):
            return dict(self._connection.execute(query).fetchall())

    def size(self) -> int:
        """Bytes of all images."""
        with driver_errors(self.path):
            return int(self._connection.execute("SELECT coalesce(sum(length(file)), 0) FROM images").fetchone()[0])

    def forget(self, *, before: float, most_bytes: int) -> None:
        """Forget triggers from before that time (seconds since the epoch), and clear images away until they take at most `most_bytes`.

        The client whose images take most loses its oldest first: nobody pushes another's evidence out. A trigger without its image
        stays committed to, but can't be asked any more.
        """
        with self._written():
            if self._connection.execute(_FORGET, (before,)).rowcount:
                self._connection.execute(_ORPHANS)
            size = self.size()
            while size > most_bytes:
                (client,) = self._connection.execute(_FULLEST).fetchone()
                for digest, length in self._connection.execute(_OLDEST_OF, (client, _CLEARED)).fetchall():
                    if size > most_bytes:
                        self._connection.execute("DELETE FROM images WHERE digest = ?", (digest,))
                        size -= length

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        with driver_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def linked(previous: bytes, commitment: bytes) -> bytes:
    """SHA-256(previous link || SHA-256(trigger)), without a key: the accused can check it too."""
    assert len(previous) == len(commitment) == len(GENESIS)
    return hashlib.sha256(previous + commitment).digest()


def _png(pixels: Bits) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _read(path: Path, sequence: int, body: bytes) -> Trigger:
    try:
        return Trigger.from_json(body)
    except TriggerError as error:
        raise StoreError(f"{path}: trigger {sequence}: {error}") from error
