"""The file under the embedded store: its schema, its lock, its errors."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from defenses.stores.protocol import StoreError

SCHEMA_VERSION = 2
# A founder is the sighting whose neighbourhood is its own digest. Age is `sequence`, not time: clocks step back.
_RECORDS = """CREATE TABLE records (
    index_id INTEGER NOT NULL REFERENCES indexes, client TEXT NOT NULL, queries INTEGER NOT NULL, flagged INTEGER NOT NULL,
    PRIMARY KEY (index_id, client)
);"""
_SCHEMA = f"""
BEGIN;
CREATE TABLE indexes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE sightings (
    sequence INTEGER PRIMARY KEY, index_id INTEGER NOT NULL REFERENCES indexes, digest BLOB NOT NULL, neighbourhood BLOB NOT NULL,
    perceptual BLOB NOT NULL, embedding BLOB NOT NULL, flagged INTEGER NOT NULL, top_class INTEGER NOT NULL,
    second_class INTEGER NOT NULL, client TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL,
    count INTEGER NOT NULL, client_queries INTEGER NOT NULL DEFAULT 0, client_flagged INTEGER NOT NULL DEFAULT 0,
    UNIQUE (index_id, digest)
);
{_RECORDS}
CREATE TABLE audit (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL, link BLOB NOT NULL);
CREATE TABLE clients (
    client TEXT PRIMARY KEY, queries INTEGER NOT NULL, flagged INTEGER NOT NULL, near_duplicates INTEGER NOT NULL,
    altered INTEGER NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL
);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_FROM_VERSION_1 = f"""
BEGIN;
ALTER TABLE sightings ADD COLUMN client_queries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sightings ADD COLUMN client_flagged INTEGER NOT NULL DEFAULT 0;
{_RECORDS}
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def locked(path: Path) -> int:
    """Lock PATH.lock for this process and return its descriptor; the lock goes when that is closed or its owner dies."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(f"{path.resolve()}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise StoreError(f"{path}: another process has this store open") from None
        raise
    return lock


def connected(path: Path) -> sqlite3.Connection:
    """Connect to the file at `path`, which is made (mode 0600) if it is absent and brought up from version 1; others raise StoreError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its log the same mode
    connection = sqlite3.connect(path.resolve(), isolation_level=None, check_same_thread=False)
    try:
        ((version, tables),) = connection.execute("SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version")
        if version not in (1, SCHEMA_VERSION) and (version or tables):
            raise StoreError(f"{path}: schema version {version}, where this release reads version {SCHEMA_VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            connection.executescript(_SCHEMA)
        elif version == 1:
            connection.executescript(_FROM_VERSION_1)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def driver_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into StoreError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: {error}") from error
