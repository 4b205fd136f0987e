"""The evidence vault: watermarked answers and their images in one SQLite file, committed to in a chain that anybody can check."""

import hashlib
import hmac
import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
    sequence INTEGER PRIMARY KEY, time REAL NOT NULL, commitment BLOB NOT NULL, link BLOB NOT NULL, seal BLOB NOT NULL,
    model TEXT, client TEXT, neighbourhood TEXT, told INTEGER, image BLOB, body BLOB, UNIQUE (model, client, neighbourhood, told)
)""",
    "CREATE INDEX triggers_image ON triggers (image)",
    "CREATE TABLE images (digest BLOB PRIMARY KEY, length INTEGER NOT NULL, file BLOB NOT NULL)",
    "CREATE INDEX images_length ON images (length)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_KNOWN = "SELECT image FROM triggers WHERE model = ? AND client = ? AND neighbourhood = ? AND told = ?"
_ADD = "INSERT INTO triggers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_IMAGE = "INSERT INTO images VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_FORGET = """UPDATE triggers SET model = NULL, client = NULL, neighbourhood = NULL, told = NULL, image = NULL, body = NULL
    WHERE body IS NOT NULL AND time < ?"""
_ORPHANS = "DELETE FROM images WHERE digest NOT IN (SELECT image FROM triggers WHERE image IS NOT NULL)"
_FULLEST = "SELECT client FROM triggers JOIN images ON image = digest GROUP BY client ORDER BY sum(length) DESC LIMIT 1"
# A commitment is a digest that nobody can foresee: of every age some stay, so nobody buries his old answers under new ones.
_SOME_OF = "SELECT DISTINCT digest, length FROM triggers JOIN images ON image = digest WHERE client = ? ORDER BY commitment LIMIT ?"
_CLEARED = 256  # images at a time


@dataclass(frozen=True, slots=True)
class Kept:
    """One link of the chain; `trigger` is None where it was forgotten."""

    link: bytes
    trigger: Trigger | None


class Vault:
    """Triggers and their images.

    link = SHA-256(previous link || SHA-256(trigger)), and a trigger names its image by digest: whoever was given the newest link, the head,
    can later tell that no trigger was invented, changed or left out before it. That is worth as much as the head's keeper: hand it to
    somebody whom the suspect must believe. Besides, each trigger is sealed, HMAC-SHA256(key, trigger), so that who can write the file but
    does not know the secret can add nothing. What is forgotten leaves its commitment behind, so the chain stays whole.

    Every method may raise StoreError. Several processes may have the file open.
    """

    def __init__(self, path: Path, *, key: bytes | None = None) -> None:
        """Open the file to read it, or with the sealing `key` to write too; then it is made (mode 0600) if it is absent."""
        self.path, self._key = path, key
        with driver_errors(path):
            if key is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)
            address = f"{path.resolve().as_uri()}?mode={'ro' if key is None else 'rw'}"
            self._connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_SECONDS)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        version_of = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        if self._key is not None:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # a head that was handed out must outlive a power cut
            self._connection.execute("PRAGMA secure_delete = ON")
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

        A client's second answer about one neighbourhood adds nothing, unless another label was told.
        """
        assert self._key is not None, "opened to read"
        with self._written():
            sequence, link = self.head()
            before = sequence
            for trigger, pixels in seen:
                image, key = bytes.fromhex(trigger.image), (trigger.model, trigger.client, trigger.neighbourhood, trigger.told)
                known = self._connection.execute(_KNOWN, key).fetchone()
                if known is None:
                    body = trigger.to_json()
                    commitment, seal = hashlib.sha256(body).digest(), hmac.digest(self._key, body, "sha256")
                    sequence, link = sequence + 1, linked(link, commitment)
                    self._connection.execute(_ADD, (sequence, trigger.time, commitment, link, seal, *key, image, body))
                if known is None or known[0] == image:  # its image may have been cleared away
                    file = _png(pixels)
                    self._connection.execute(_ADD_IMAGE, (image, len(file), file))
        return sequence - before

    def head(self) -> tuple[int, bytes]:
        """Sequence number and link of the newest trigger; (0, 32 zero bytes) where there is none."""
        row = self._one("SELECT sequence, link FROM triggers ORDER BY sequence DESC LIMIT 1")
        return (int(row[0]), bytes(row[1])) if row else (0, GENESIS)

    def kept(self, *, key: bytes | None = None) -> list[Kept]:
        """All links of the chain, oldest first. Raises StoreError for the first that doesn't fit, or that `key` has not sealed."""
        found: list[Kept] = []
        previous = GENESIS
        with driver_errors(self.path):
            rows = self._connection.execute("SELECT sequence, commitment, link, seal, body FROM triggers ORDER BY sequence")
            for expected, (sequence, commitment, link, seal, body) in enumerate(rows, start=1):
                whole = body is None or hashlib.sha256(body).digest() == commitment
                if sequence != expected or not whole or linked(previous, commitment) != link:
                    raise StoreError(
                        f"{self.path}: trigger {expected} does not fit the chain: it, or one before it, was changed or removed"
                    )
                if key is not None and body is not None and not hmac.compare_digest(hmac.digest(key, body, "sha256"), seal):
                    raise StoreError(f"{self.path}: trigger {expected} is not sealed with our secret: invented, or of another deployment")
                previous = link
                found.append(Kept(link, None if body is None else _read(self.path, expected, body)))
        return found

    def images(self) -> frozenset[str]:
        """The digests of all images that are there."""
        with driver_errors(self.path):
            return frozenset(bytes(row[0]).hex() for row in self._connection.execute("SELECT digest FROM images"))

    def pixels(self, image: str) -> Bits | None:
        """An image by its digest, (height, width, 3); None where it was cleared away. Raises StoreError where it is another."""
        row = self._one("SELECT file FROM images WHERE digest = ?", bytes.fromhex(image))
        if row is None:
            return None
        try:
            with Image.open(io.BytesIO(row[0]), formats=("PNG",)) as opened:
                pixels = np.asarray(opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise StoreError(f"{self.path}: the image {image} can't be read: {error}") from error
        if hashlib.sha256(pixels.tobytes()).hexdigest() != image:
            raise StoreError(f"{self.path}: the image {image} is not the one that was committed to")
        return pixels

    def clients(self, *, limit: int) -> dict[str, int]:
        """How many triggers the clients have that have most, the most first."""
        query = "SELECT client, count(*) FROM triggers WHERE client IS NOT NULL GROUP BY client ORDER BY count(*) DESC, client LIMIT ?"
        with driver_errors(self.path):
            return dict(self._connection.execute(query, (limit,)).fetchall())

    def size(self) -> tuple[int, int]:
        """How many triggers are not forgotten, and the bytes of all images."""
        (triggers,) = self._one("SELECT count(*) FROM triggers WHERE client IS NOT NULL") or (0,)
        (length,) = self._one("SELECT coalesce(sum(length), 0) FROM images") or (0,)
        return int(triggers), int(length)

    def forget(self, *, before: float, most_bytes: int) -> None:
        """Forget triggers from before that time (seconds since the epoch), and clear images away until they take at most `most_bytes`.

        The client whose images take most loses some, of every age: nobody pushes another's evidence out, or his own. A trigger without
        its image stays committed to, but can't be asked any more.
        """
        with self._written():
            if self._connection.execute(_FORGET, (before,)).rowcount:
                self._connection.execute(_ORPHANS)
            _, size = self.size()
            while size > most_bytes and (fullest := self._one(_FULLEST)):
                for digest, length in self._connection.execute(_SOME_OF, (*fullest, _CLEARED)).fetchall():
                    if size > most_bytes:
                        self._connection.execute("DELETE FROM images WHERE digest = ?", (digest,))
                        size -= length

    def copy_to(self, path: Path) -> None:
        """Copy everything, as it is at one moment, to a new file of mode 0600."""
        with driver_errors(path):
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            partial.touch(mode=0o600)
            with closing(sqlite3.connect(partial)) as copy:
                self._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            partial.replace(path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _one(self, query: str, *values: object) -> Any:
        with driver_errors(self.path):
            return self._connection.execute(query, values).fetchone()

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
