"""Keep a server's accounts up to date while commands change them, and record every change once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from app.accounts.book import AccountError, Book
from app.accounts.live import NAME, Accounts
from app.documents import Document, Documents, DocumentsError, watch
from defenses.stores.protocol import StoreError

RECORDED = 100  # newest versions that a starting server looks at, for changes that were made while none ran
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)
Record = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def following(accounts: Accounts, documents: Documents, *, record: Record) -> AsyncIterator[None]:
    """Put every new version of the book into force within about a second, and hand each change to `record` on one of all replicas."""

    async def on_change(document: Document) -> None:
        accounts.follow(document)
        await _record_once(documents, document, record)

    async def follow() -> None:
        version = seen
        while not accounts.is_known:  # never through old versions to the newest: on the way a revoked key would be alive again
            await asyncio.sleep(RETRY_SECONDS)
            version = await accounts.load(documents)
        with suppress(DocumentsError):  # said by whoever asks first for what is in force
            for document in reversed(await documents.history(NAME, limit=RECORDED)):
                if document.version <= version:
                    await _record_once(documents, document, record)
        await watch(documents, NAME, on_change, seen=version)

    seen = await accounts.load(documents)
    follower = asyncio.create_task(follow())
    try:
        yield
    finally:
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower


async def _record_once(documents: Documents, document: Document, record: Record) -> None:
    try:
        change = Book.parse(document.body).change
        if change is not None and await documents.claim(NAME, document.version):
            await record({"event": "accounts", **change.model_dump(mode="json")})
    except (AccountError, StoreError) as error:  # what is in force doesn't hang on it
        log.error("version %d of the accounts can't be recorded: %s", document.version, error)
