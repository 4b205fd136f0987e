"""A13: somebody edits the audit log."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.auditing import check
from app.keys import derive
from defenses.stores import open_store
from defenses.stores.protocol import AuditEntry
from tests.abuse import FULL
from tests.server import SECRET

RECORDS = 60
EDITS = 1000 if FULL else 60
KEY = derive(SECRET.encode(), "audit")
KINDS = ("body", "link", "delete", "swap", "insert", "copy", "renumber")
Row = tuple[Any, ...]  # sequence, body, link


async def written(path: Path) -> None:
    """A log of some records."""
    store = await open_store(f"sqlite:///{path}", index="m", audit_key=KEY)
    for number in range(RECORDS):
        body = b'{"answer":"%d","client":"anna"}' % number
        await store.append_audit([AuditEntry("anna", float(number), flagged=False, near_duplicate=False, altered=False, body=body)])
    await store.close()


def edited(rows: list[Row], draw: random.Random) -> tuple[str, list[Row], int]:
    """The kind of an edit, the log after it, and the sequence number that has to be named: the first that is not as it was."""
    at = draw.randrange(len(rows) - 1)  # who cuts off the newest record leaves a shorter log that is whole: docs/architecture.md
    sequence, body, link = rows[at]
    other = draw.randrange(at + 1, len(rows))
    later = [(number + 1, *rest) for number, *rest in rows[at:]]
    kind, first_bad, log = draw.choice(KINDS), sequence, list(rows)
    match kind:
        case "body":
            log[at] = (sequence, changed(body, draw), link)
        case "link":
            log[at] = (sequence, body, changed(link, draw))
        case "delete":
            del log[at]
        case "swap":
            log[at], log[other] = (sequence, *rows[other][1:]), (rows[other][0], body, link)
        case "insert":
            log[at:] = [(sequence, b'{"answer":"forged"}', draw.randbytes(32)), *later]
        case "copy":
            first_bad = len(rows) + 1
            log.append((first_bad, body, link))
        case "renumber":
            log[at:] = later
    return kind, log, first_bad


def changed(value: bytes, draw: random.Random) -> bytes:
    """One byte is not what it was."""
    at = draw.randrange(len(value))
    return value[:at] + bytes([value[at] ^ draw.randint(1, 255)]) + value[at + 1 :]


def put(path: Path, rows: list[Row]) -> None:
    """Write a log into the database behind the service's back."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM audit")
        database.executemany("INSERT INTO audit (sequence, body, link) VALUES (?, ?, ?)", rows)


@pytest.mark.abuse
def test_every_edit_is_found_and_its_place_named(tmp_path: Path, figure: Callable[..., None]) -> None:
    """A changed, removed, added, exchanged or renumbered record is found, and the first bad one is named; the log as written is whole."""
    path, draw = tmp_path / "cloneguard.db", random.Random(13)
    asyncio.run(written(path))
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT sequence, CAST(body AS BLOB), CAST(link AS BLOB) FROM audit ORDER BY sequence").fetchall()
    assert asyncio.run(check(f"sqlite:///{path}", key=KEY)) == (RECORDS, None)
    kinds: dict[str, int] = {}
    for _ in range(EDITS):
        kind, log, first_bad = edited(rows, draw)
        put(path, log)
        assert asyncio.run(check(f"sqlite:///{path}", key=KEY))[1] == first_bad, kind
        kinds[kind] = kinds.get(kind, 0) + 1
    assert len(kinds) == len(KINDS)
    (tmp_path / "secret").write_text(SECRET)
    found = subprocess.run([sys.executable, "-m", "app", "audit", "--state", str(tmp_path)], check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert f"record {first_bad} " in found.stderr
    figure(f"{EDITS:,} edits of 7 kinds, {EDITS:,} found, each at its place")
