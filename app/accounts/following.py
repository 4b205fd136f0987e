"""Keep a server's accounts up to date while commands change them, and record every change once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from app.accounts.book import AccountError, Book
from app.accounts.live import NAME, Accounts
from app.documents import Document, Documents, DocumentsError, watch
from defenses.ending_tasks import end
from defenses.stores.protocol import StoreError

RECORDED = 100  # newest versions that a starting server looks at, for changes that were made while none ran
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)
Record = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def following(accounts: Accounts, documents: Documents, *, record: Record) -> AsyncIterator[None]:
    """Put every new version of the book into force within about a second, and hand each change to `record` on one of all replicas.

    Recording is a task of its own that tries again: what is in force never waits for the audit log.
    """
    unrecorded: asyncio.Queue[Document] = asyncio.Queue()

    async def on_change(document: Document) -> None:
        accounts.follow(document)
        unrecorded.put_nowait(document)

    async def follow() -> None:
        version = seen
        while not accounts.is_known:  # never through old versions to the newest: on the way a revoked key would be alive again
            await asyncio.sleep(RETRY_SECONDS)
            version = await accounts.load(documents)
        for document in reversed(await _history(documents)):
            if document.version <= version:
                unrecorded.put_nowait(document)
        await watch(documents, NAME, on_change, seen=version)

    seen = await accounts.load(documents)
    tasks = [asyncio.create_task(follow()), asyncio.create_task(_record_all(documents, unrecorded, record))]
    try:
        yield
    finally:
        await end(tasks)


async def _record_all(documents: Documents, unrecorded: asyncio.Queue[Document], record: Record) -> None:
    while True:
        document = await unrecorded.get()
        is_said = False
        while not await _is_recorded(documents, document, record, quietly=is_said):
            is_said = True
            await asyncio.sleep(RETRY_SECONDS)


async def _history(documents: Documents) -> list[Document]:
    """The newest versions; documents that are away are waited for."""
    while True:
        try:
            return await documents.history(NAME, limit=RECORDED)
        except DocumentsError as error:
            log.warning("what was changed before this start can't be recorded for now: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _is_recorded(documents: Documents, document: Document, record: Record, *, quietly: bool) -> bool:
    """Record a change unless another replica does; False where that is to be tried again."""
    try:
        change = Book.parse(document.body).change
        if change is not None and await documents.claim(NAME, document.version):
            await record({"event": "accounts", **change.model_dump(mode="json")})
    except (StoreError, DocumentsError) as error:
        if not quietly:
            log.error("version %d of the accounts can't be recorded for now: %s", document.version, error)
        return False
    except AccountError as error:
        log.error("version %d of the accounts can't be recorded: %s", document.version, error)
    return True
