"""Documents keep every version, let one of two writers win, and are read alike from files and from Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.documents import ConflictError, Document, Documents, DocumentsError, open_documents, watch
from app.documents.files import FileDocuments
from app.documents.shared import RedisDocuments
from app.settings import read_settings
from tests.redis_server import RunningRedis

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30.0  # for a machine that is busy with other things
Opened = Callable[[], Documents]


@pytest.fixture(params=["files", "redis"])
async def replica(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """Open the same documents as often as there are replicas."""
    opened: list[Documents] = []

    def on_files() -> Documents:
        opened.append(FileDocuments(tmp_path / "documents"))
        return opened[-1]

    if request.param == "files":
        yield on_files
        return
    with RunningRedis(tmp_path / "redis") as server:

        def on_redis() -> Documents:
            opened.append(RedisDocuments(server.url, timeout_seconds=PATIENCE_SECONDS))
            return opened[-1]

        yield on_redis
        for documents in opened:
            await documents.close()


async def test_every_version_stays_readable(replica: Opened) -> None:
    """What one replica wrote, another reads: the newest, any one, and the history."""
    mine, other = replica(), replica()
    assert await other.newest("policy") == 0
    assert await other.read("policy") is None
    assert await other.version("policy", 0) is None
    assert await other.history("policy") == []
    for number in range(12):
        written = await mine.write("policy", {"number": number, "text": "ü"}, expected=number)
        assert written == Document("policy", number + 1, {"number": number, "text": "ü"})
    assert await other.newest("policy") == 12
    assert await other.read("policy") == written
    assert await other.version("policy", 3) == Document("policy", 3, {"number": 2, "text": "ü"})
    assert await other.version("policy", 13) is None
    assert [document.version for document in await other.history("policy", limit=3)] == [12, 11, 10]
    assert len(await other.history("policy")) == 12
    assert await other.read("accounts") is None


async def test_of_many_writers_of_one_version_one_wins(replica: Opened) -> None:
    """The others are told, and what the winner wrote is what everybody reads."""
    replicas = [replica() for _ in range(4)]
    writes = (documents.write("policy", {"by": i}, expected=0) for i, documents in enumerate(replicas * 5))
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Document)]
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 19
    assert [await documents.read("policy") for documents in replicas] == [won] * 4


@pytest.mark.parametrize("expected", [0, 2, 7])
async def test_a_writer_who_did_not_read_the_newest_is_refused(replica: Opened, expected: int) -> None:
    """Neither an older nor a later number opens a gap."""
    documents = replica()
    await documents.write("policy", {}, expected=0)
    with pytest.raises(ConflictError, match=f"version {expected}"):
        await documents.write("policy", {}, expected=expected)
    assert await documents.newest("policy") == 1


async def test_a_version_is_claimed_by_one_replica(replica: Opened) -> None:
    """Exactly one of all records it, and remembers that it is the one."""
    replicas = [replica() for _ in range(8)]
    await replicas[0].write("policy", {}, expected=0)
    claims = await asyncio.gather(*(documents.claim("policy", 1) for documents in replicas))
    assert sum(claims) == 1
    assert await asyncio.gather(*(documents.claim("policy", 1) for documents in replicas)) == claims


async def test_a_watcher_sees_every_version_in_order_and_survives_errors(replica: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """Versions that came between two looks are not left out, and one that can't be followed doesn't stop the next."""
    mine, other = replica(), replica()
    seen: list[int] = []
    all_seen = asyncio.Event()

    async def note(document: Document) -> None:
        seen.append(document.version)
        if document.version == 3:
            raise ValueError("of another release")
        if document.version == 5:
            all_seen.set()

    for number in range(4):
        await mine.write("policy", {}, expected=number)
    task = asyncio.create_task(watch(other, "policy", note, seen=1, seconds=0.01))
    await asyncio.sleep(0.05)
    await mine.write("policy", {}, expected=4)
    await asyncio.wait_for(all_seen.wait(), 20)
    task.cancel()
    assert seen == [2, 3, 4, 5]
    assert "version 3 of the document 'policy' can't be followed" in caplog.text


async def test_files_are_private_and_a_broken_one_is_named(tmp_path: Path) -> None:
    """Mode 0600, as the accounts in them deserve; what is not JSON is an error that says which file."""
    documents = FileDocuments(tmp_path / "documents")
    await documents.write("accounts", {"a": 1}, expected=0)
    await documents.claim("accounts", 1)
    folder = tmp_path / "documents" / "accounts"
    (folder / "notes.json").touch(mode=0o600)
    assert await documents.newest("accounts") == 1
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "000001.json": 0o600,
        "000001.claimed": 0o600,
        "notes.json": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    for broken in ("{", "[]"):
        (folder / "000001.json").write_text(broken)
        with pytest.raises(DocumentsError, match=r"000001\.json is not"):
            await documents.read("accounts")
        assert await documents.history("accounts") == []


async def test_a_redis_that_is_away_is_one_error_without_the_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever watches goes on with what he has, hears of it once, and follows again when Redis is back, even if it came back empty."""
    seen: asyncio.Queue[dict[str, int]] = asyncio.Queue()

    async def note(document: Document) -> None:
        await seen.put(document.body)

    with RunningRedis(tmp_path) as server:
        documents = RedisDocuments(server.url.replace("redis://", "redis://:hunter2@"), timeout_seconds=PATIENCE_SECONDS)
        plain = RedisDocuments(server.url, timeout_seconds=PATIENCE_SECONDS)
        await plain.write("policy", {"a": 1}, expected=0)
        await plain.write("policy", {"a": 2}, expected=1)
        task = asyncio.create_task(watch(plain, "policy", note, seconds=0.02))
        assert [await seen.get(), await seen.get()] == [{"a": 1}, {"a": 2}]
        server.kill()
        for away in (documents, plain):
            with pytest.raises(DocumentsError) as caught:
                await away.read("policy")
            assert "hunter2" not in str(caught.value)
        await asyncio.sleep(0.2)
        server.restart(empty=True)
        await plain.write("policy", {"b": 1}, expected=0)
        assert await seen.get() == {"b": 1}
        task.cancel()
        assert caplog.text.count("can't be followed for now") == 1
        await documents.close()
        await plain.close()


async def test_the_store_decides_where_documents_are(tmp_path: Path) -> None:
    """Replicas that share a store share the policy and the accounts."""
    assert isinstance(open_documents(read_settings(state=tmp_path)), FileDocuments)
    for url in ("redis://localhost:1/0", "rediss://localhost:1/0", "unix:///tmp/redis.sock"):
        documents = open_documents(read_settings(state=tmp_path, store={"url": url}))
        assert isinstance(documents, RedisDocuments)
        await documents.close()
