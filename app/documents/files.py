"""Documents in files: STATE/documents/NAME/000001.json, each written once; the file system decides who was first."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson

from app.documents.protocol import BrokenError, ConflictError, Document, DocumentsError
from app.keys import create_once

Result = TypeVar("Result")


class FileDocuments:
    """Keep versions as files (mode 0600) that are linked into place: nobody sees half of one, and of two writers one is second.

    For replicas on one machine, and for commands beside a running service.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._token = secrets.token_hex(16)

    async def newest(self, name: str) -> int:
        """See Documents."""
        return await self._run(lambda: self._newest(name))

    async def read(self, name: str) -> Document | None:
        """See Documents."""
        return await self._run(lambda: self._read(name, self._newest(name)))

    async def version(self, name: str, number: int) -> Document | None:
        """See Documents."""
        return await self._run(lambda: self._read(name, number))

    async def history(self, name: str, *, limit: int = 100) -> list[Document]:
        """See Documents."""

        def read() -> list[Document]:
            found = []
            newest = self._newest(name)
            for number in range(newest, max(0, newest - limit), -1):
                with suppress(BrokenError):
                    found.append(self._read(name, number))
            return [document for document in found if document is not None]

        return await self._run(read)

    async def write(self, name: str, body: dict[str, Any], *, expected: int) -> Document:
        """See Documents."""

        def write() -> bool:
            self._folder(name).mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._newest(name) == expected and create_once(self._path(name, expected + 1), orjson.dumps(body).decode())

        if not await self._run(write):
            raise ConflictError(f"{name} is not at version {expected} any more")
        return Document(name, expected + 1, body)

    async def claim(self, name: str, version: int) -> bool:
        """See Documents."""
        path = self._path(name, version).with_suffix(".claimed")
        return await self._run(lambda: create_once(path, self._token) or path.read_text().strip() == self._token)

    async def close(self) -> None:
        """See Documents; nothing is open."""

    def _folder(self, name: str) -> Path:
        assert name.isidentifier(), name
        return self._directory / name

    def _path(self, name: str, number: int) -> Path:
        return self._folder(name) / f"{number:06}.json"

    def _newest(self, name: str) -> int:
        return max((int(path.stem) for path in self._folder(name).glob("*.json") if path.stem.isdecimal()), default=0)

    def _read(self, name: str, number: int) -> Document | None:
        path = self._path(name, number)
        try:
            body = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError as error:
            raise BrokenError(f"{path} is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise BrokenError(f"{path} is not a JSON object")
        return Document(name, number, body)

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise DocumentsError(f"documents in {self._directory}: {error.strerror or error}") from error
