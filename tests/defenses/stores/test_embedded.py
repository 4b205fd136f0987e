"""What only the embedded store promises: about its file, its lock and its end."""

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from defenses.stores import open_store
from defenses.stores.chain import verify
from defenses.stores.hamming import HammingIndex
from defenses.stores.protocol import AuditEntry, QueryStore, StoreError
from tests.defenses.stores.founding_process import INDEX, KEY
from tests.defenses.stores.rule import Rule, crowd, ones, sighting

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.anyio


async def opened(path: Path) -> QueryStore:
    return await open_store(f"sqlite:///{path}", index=INDEX, audit_key=KEY)


@contextmanager
def founding(path: Path, *, seed: int) -> Iterator[subprocess.Popen[str]]:
    """Run the founding process; it ends with the block at the latest, by SIGKILL."""
    command = [sys.executable, "-m", "tests.defenses.stores.founding_process", f"sqlite:///{path}", str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def acknowledged(process: subprocess.Popen[str], *, kill_after: int) -> list[str]:
    """Kill the process after that many lines; return them and what else it had said, but for a torn last line."""
    assert process.stdout
    lines = [next(process.stdout) for _ in range(kill_after)]
    process.kill()
    return lines + [line for line in process.stdout if line.endswith("\n")]


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """After several kills mid-stream every acknowledged sighting and record is there, and the audit chain verifies."""
    path = tmp_path / "store.db"
    homes: dict[bytes, bytes] = {}
    bodies: list[bytes] = []
    for seed, kill_after in enumerate([30, 3, 90]):
        with founding(path, seed=seed) as process:
            lines = acknowledged(process, kill_after=kill_after)
        for line in lines:
            *placed, body = line.split()
            homes |= {bytes.fromhex(digest): bytes.fromhex(home) for digest, home in (pair.split(":") for pair in placed)}
            bodies.append(body.encode())
    assert len(bodies) >= 123

    store = await opened(path)
    records = await store.audit(limit=1_000_000)
    assert verify(KEY, records) is None
    assert set(bodies) <= {record.body for record in records}
    matches = await store.find_or_found([sighting(digest, perceptual=ones(64)) for digest in homes])
    assert [(match.channel, match.neighbourhood.id) for match in matches] == [("digest", home) for home in homes.values()]
    await store.close()


async def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    """Two searchers of one file would found apart, so the second gets a clear error; a killed owner leaves no lock behind."""
    path = tmp_path / "store.db"
    with founding(path, seed=0) as process:
        assert process.stdout
        next(process.stdout)
        with pytest.raises(StoreError, match="another process has this store open"):
            await opened(path)
    store = await opened(path)
    assert await store.neighbourhoods() > 0
    await store.close()


async def test_closing_and_failing_to_open_both_let_go_of_the_file(tmp_path: Path) -> None:
    """The lock is free again after a close, and after an open that failed on the file's content."""
    path = tmp_path / "store.db"
    path.write_bytes(b"no database" * 500)
    with pytest.raises(StoreError):
        await opened(path)
    path.unlink()
    for _ in range(2):
        store = await opened(path)
        await store.close()


async def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """The folder is made with mode 0700; the database, its log and its lock with mode 0600."""
    path = tmp_path / "state" / "store.db"
    store = await opened(path)
    await store.find_or_found([sighting(1)])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600)
    await store.close()


@pytest.mark.parametrize("broken", ["not a database", "a torn page", "cut short"])
async def test_a_corrupt_file_is_one_clear_line(tmp_path: Path, broken: str) -> None:
    """A file that SQLite can't read raises StoreError, one line that names the file, when it is opened."""
    path = tmp_path / "store.db"
    store = await opened(path)
    await store.find_or_found(list(crowd(np.random.default_rng(1), size=1000)))
    await store.close()
    content = path.read_bytes()
    path.write_bytes(
        {
            "not a database": b"garbage" * 1000,
            "a torn page": content[:4096] + os.urandom(len(content) - 4096),
            "cut short": content[: len(content) // 2],
        }[broken]
    )
    with pytest.raises(StoreError, match=r"\A[^\n]*store\.db: [^\n]+\Z"):
        await opened(path)


async def test_another_schema_version_is_refused_untouched(tmp_path: Path) -> None:
    """A newer release's file, or another program's, is not opened and not written to."""
    for name, statement in {"newer": "PRAGMA user_version = 99", "foreign": "CREATE TABLE recipes (name)"}.items():
        path = tmp_path / f"{name}.db"
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.close()
        content = path.read_bytes()
        with pytest.raises(StoreError, match="schema version"):
            await opened(path)
        assert path.read_bytes() == content


async def test_a_file_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    """What it holds stays, founders without a record; a second opening finds nothing to do."""
    path = tmp_path / "store.db"
    store = await opened(path)
    (founded,) = await store.find_or_found([sighting(1)])
    await store.close()
    connection = sqlite3.connect(path)
    for column in ("client_queries", "client_flagged"):
        connection.execute(f"ALTER TABLE sightings DROP COLUMN {column}")
    connection.execute("DROP TABLE records")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    for _ in range(2):
        store = await opened(path)
        (again,) = await store.find_or_found([sighting(1)])
        assert again.neighbourhood == founded.neighbourhood
        await store.close()


async def test_a_path_that_cannot_be_a_file_is_a_store_error(tmp_path: Path) -> None:
    """The file system's errors become StoreError as SQLite's do."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "store.db"):
        with pytest.raises(StoreError):
            await opened(path)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No file of this process may grow beyond the largest in `folder`."""
    size = max(file.stat().st_size for file in folder.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_failed_commit_leaves_no_trace(tmp_path: Path) -> None:
    """When the disk is full calls fail and nothing of them is remembered; when it isn't any more, the rule goes on."""
    path = tmp_path / "store.db"
    sightings = list(crowd(np.random.default_rng(3), size=600))
    rule = Rule(perceptual_radius=6, embedding_radius=7)
    store = await opened(path)
    assert await store.find_or_found(sightings[:200]) == [rule.find_or_found(new) for new in sightings[:200]]
    entry = AuditEntry("anna", 1.0, flagged=False, near_duplicate=False, altered=False, body=b"{}" * 1000)
    await store.append_audit([entry])
    with full_disk(tmp_path):
        with pytest.raises(StoreError):
            await store.find_or_found(sightings[200:400])
        with pytest.raises(StoreError):
            await store.append_audit([entry] * 100)
    assert await store.neighbourhoods() == len(rule.founders)
    assert await store.find_or_found(sightings[400:]) == [rule.find_or_found(new) for new in sightings[400:]]
    await store.append_audit([entry] * 2)
    records = await store.audit()
    assert (len(records), verify(KEY, records)) == (3, None)
    await store.close()


async def test_indexes_that_fell_behind_are_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a commit succeeded and the index then ran out of memory, the next call finds what was committed."""
    store = await opened(tmp_path / "store.db")

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(HammingIndex, "add", out_of_memory)
        with pytest.raises(MemoryError):
            await store.find_or_found([sighting(1)])
    (match,) = await store.find_or_found([sighting(2, perceptual=ones(1))])
    assert (match.neighbourhood.id[-1], match.channel) == (1, "perceptual")
    assert await store.neighbourhoods() == 1
    await store.close()
