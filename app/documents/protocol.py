"""What documents promise, wherever they are kept; one contract test runs on both backends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from defenses.stores.protocol import StoreError

log = logging.getLogger(__name__)


class DocumentsError(Exception):
    """Documents can't be read or written; one line says why."""


class BrokenError(DocumentsError):
    """One version is not what documents are made of; the others are."""


class ConflictError(Exception):
    """Somebody else wrote the next version first: read again, then decide again."""


@dataclass(frozen=True, slots=True)
class Document:
    """One version of a document; versions count from 1, and never change once they are written."""

    name: str
    version: int
    body: dict[str, Any]


class Documents(Protocol):
    """Versioned documents by name (lower-case words). Every method may raise DocumentsError.

    What a body means is validated by who uses it, after every read: another release may have written it.
    """

    async def newest(self, name: str) -> int:
        """The number of the newest version, 0 where there is none: what a watcher asks for."""
        ...

    async def read(self, name: str) -> Document | None:
        """The newest version."""
        ...

    async def version(self, name: str, number: int) -> Document | None:
        """One version."""
        ...

    async def history(self, name: str, *, limit: int = 100) -> list[Document]:
        """The newest `limit` versions, newest first; broken ones are left out."""
        ...

    async def write(self, name: str, body: dict[str, Any], *, expected: int) -> Document:
        """Write version `expected` + 1. Raises ConflictError where `expected` is not the newest one."""
        ...

    async def claim(self, name: str, version: int) -> bool:
        """True for one of all replicas, the one who records that version, and again whenever it asks."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


async def watch(
    documents: Documents, name: str, on_change: Callable[[Document], Awaitable[None]], *, seen: int = 0, seconds: float = 1.0
) -> None:
    """Call `on_change` with every version after `seen`, in order, until cancelled.

    While documents are away what is in force stays so, and it is said once, not every second; so it is where `on_change` raises a
    StoreError, and it will be called again. Where it fails otherwise, and for a broken version, the next version counts. A number that
    went back means that what kept the documents was lost: the newest there is counts.
    """
    is_away = False
    while True:
        await asyncio.sleep(seconds)
        try:
            newest = await documents.newest(name)
            first = seen + 1 if newest >= seen else newest
            for number in range(first, newest + 1) if newest != seen else ():
                await _follow(documents, name, number, on_change)
                seen = number
            is_away = False
        except Exception as error:  # whatever it is, it must not be the end of following
            if not is_away:
                log.warning("the document %r can't be followed for now: %s", name, error)
            is_away = True


async def _follow(documents: Documents, name: str, number: int, on_change: Callable[[Document], Awaitable[None]]) -> None:
    try:
        document = await documents.version(name, number)
        if document is not None:
            await on_change(document)
    except BrokenError as error:
        log.error("version %d of the document %r is passed over: %s", number, name, error)
    except (DocumentsError, StoreError):
        raise  # away: to be tried again
    except Exception:
        log.exception("version %d of the document %r can't be followed, the last one stays in force", number, name)
