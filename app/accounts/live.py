"""The accounts as a running server knows them: who a key belongs to, and what is different for its account."""

import hmac
import logging
import time
from collections.abc import Callable

from app.accounts.book import AccountError, Book
from app.accounts.key_text import digest_of, id_in
from app.documents import Document, Documents, DocumentsError
from app.errors import OverloadedError, SuspendedError, UnauthorizedError
from app.profiles import ProfileName

NAME = "accounts"

log = logging.getLogger(__name__)


class Accounts:
    """The newest book that was read. One assignment replaces it, so every request sees one version of it.

    Until a book could be read nobody knows whether keys are needed: requests are refused with 503. Once there was one it stays in force
    while the documents are away.
    """

    def __init__(self, *, pepper: bytes, clock: Callable[[], float] = time.time) -> None:
        self._pepper, self._clock = pepper, clock
        self._book: Book | None = None
        self._is_said = False
        self._nobody = digest_of("", pepper=pepper)

    @property
    def is_known(self) -> bool:
        """Whether a book was read, or there is none yet."""
        return self._book is not None

    @property
    def need_keys(self) -> bool:
        """Whether there is any account: from the first one on, who has no key is refused, and revoking the last key opens no door."""
        return bool(self._read.accounts)

    def authenticate(self, text: str) -> str:
        """The account that a key belongs to. Raises UnauthorizedError or SuspendedError.

        An unknown id costs a comparison too, so that time tells nothing about which ids exist.
        """
        book, key_id = self._read, id_in(text)
        if key_id is None:
            raise UnauthorizedError
        key = book.keys.get(key_id)
        fits = hmac.compare_digest(digest_of(text, pepper=self._pepper), self._nobody if key is None else key.digest)
        if key is None or not fits or not key.is_live(self._clock()) or key.account not in book.accounts:
            raise UnauthorizedError
        if book.accounts[key.account].suspended:
            raise SuspendedError
        return key.account

    def profile_of(self, client: str) -> ProfileName | None:
        """The profile that an account has instead of everyone's."""
        account = self._book.accounts.get(client) if self._book else None
        return account.profile if account else None

    def limits_of(self, client: str) -> tuple[int | None, int | None]:
        """An account's own limits, queries a minute and a day; None is everyone's."""
        account = self._book.accounts.get(client) if self._book else None
        return (account.per_minute, account.per_day) if account else (None, None)

    def __contains__(self, client: str) -> bool:
        """Whether a client is an account, not an address."""
        return self._book is not None and client in self._book.accounts

    async def load(self, documents: Documents) -> int:
        """Read the newest book, and return its version; 0 where there is none, or where it can't be read yet, which is said once."""
        try:
            document = await documents.read(NAME)
            self._book = Book() if document is None else Book.parse(document.body)
        except (DocumentsError, AccountError) as error:
            if not self._is_said:
                log.error("queries wait until the accounts can be read: %s", error)
            self._is_said = True
            return 0
        return 0 if document is None else document.version

    def follow(self, document: Document) -> None:
        """Put a version into force. One that can't be understood changes nothing."""
        try:
            self._book = Book.parse(document.body)
        except AccountError as error:
            log.error("version %d is not in force: %s", document.version, error)

    @property
    def _read(self) -> Book:
        if self._book is None:
            raise OverloadedError("accounts")
        return self._book
