"""Accounts: what commands may change, and what a running server makes of a key."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.accounts import Account, AccountError, Accounts, Book
from app.accounts.book import Act, check_name
from app.accounts.command import changed
from app.accounts.following import following
from app.accounts.key_text import checksum_of
from app.accounts.live import NAME
from app.documents import Document, DocumentsError, open_documents
from app.documents.files import FileDocuments
from app.errors import OverloadedError, SuspendedError, UnauthorizedError
from app.profiles import ProfileName
from app.settings import Settings, read_settings
from defenses.stores.protocol import StoreError

PEPPER = b"p" * 32
HOUR = 3600.0


def at(time: float) -> Act:
    return Act(by="root@here", time=time)


def book_with(*names: str, **different: Any) -> tuple[Book, dict[str, str]]:
    book, texts = Book(), {}
    for name in names:
        book, texts[name] = book.create(name, Account(created=0.0, **different), pepper=PEPPER, act=at(0.0))
    return book, texts


def accounts_of(book: Book, *, now: float = 1.0) -> Accounts:
    accounts = Accounts(pepper=PEPPER, clock=lambda: now)
    accounts.follow(Document(NAME, 1, book.body()))
    return accounts


def opens(book: Book, text: str, *, now: float) -> bool:
    try:
        return bool(accounts_of(book, now=now).authenticate(text))
    except UnauthorizedError:
        return False


def test_a_key_opens_its_own_account() -> None:
    """And no other; after a round through the document too."""
    book, texts = book_with("alice", "bob")
    accounts = accounts_of(Book.parse(book.body()))
    assert {name: accounts.authenticate(text) for name, text in texts.items()} == {"alice": "alice", "bob": "bob"}
    assert "alice" in accounts
    assert "127.0.0.1" not in accounts


def test_the_book_holds_no_key() -> None:
    """Neither a key nor its secret part; the HMAC is of no use to whoever reads it."""
    book, texts = book_with("alice")
    assert texts["alice"] not in str(book.body())
    assert texts["alice"].split("_")[2] not in str(book.body())
    (digest,) = (key["digest"] for key in book.body()["keys"].values())
    assert not opens(book, digest, now=1.0)


def test_another_deployment_opens_nothing() -> None:
    """The same book under another secret refuses every key."""
    book, texts = book_with("alice")
    accounts = Accounts(pepper=b"q" * 32)
    accounts.follow(Document(NAME, 1, book.body()))
    with pytest.raises(UnauthorizedError):
        accounts.authenticate(texts["alice"])


def test_an_id_with_another_key_s_secret_opens_nothing() -> None:
    """Well-formed, with a fitting checksum, and of a key that exists."""
    book, texts = book_with("alice", "bob")
    prefix, key_id, _, _ = texts["alice"].split("_")
    body = "_".join((prefix, key_id, texts["bob"].split("_")[2]))
    assert not opens(book, f"{body}_{checksum_of(body)}", now=1.0)


def test_rotation_leaves_two_keys_alive_for_the_overlap() -> None:
    """Both open the door until the old one's time is up; a third key ends the first at once."""
    book, texts = book_with("alice")
    book, second = book.rotate("alice", overlap_seconds=HOUR, pepper=PEPPER, act=at(10.0))
    assert [opens(book, key, now=HOUR) for key in (texts["alice"], second)] == [True, True]
    assert [opens(book, key, now=HOUR + 10) for key in (texts["alice"], second)] == [False, True]
    book, third = book.rotate("alice", overlap_seconds=HOUR, pepper=PEPPER, act=at(20.0))
    assert [opens(book, key, now=21.0) for key in (texts["alice"], second, third)] == [False, True, True]


def test_rotation_at_once_ends_the_old_key() -> None:
    """For a key that leaked."""
    book, texts = book_with("alice")
    book, second = book.rotate("alice", overlap_seconds=0.0, pepper=PEPPER, act=at(10.0))
    assert [opens(book, key, now=10.0) for key in (texts["alice"], second)] == [False, True]


def test_a_revoked_key_stays_so_when_the_clock_goes_back() -> None:
    """It is a mark, not a moment to compare with."""
    book, texts = book_with("alice")
    book = book.revoke("alice", every=False, act=at(100.0))
    assert not any(opens(book, texts["alice"], now=now) for now in (0.0, 99.0, 101.0))


def test_of_several_keys_one_has_to_be_named() -> None:
    """Or all: nobody ends the wrong one by mistake."""
    book, texts = book_with("alice")
    book, second = book.rotate("alice", overlap_seconds=HOUR, pepper=PEPPER, act=at(10.0))
    with pytest.raises(AccountError, match="2 live keys"):
        book.revoke("alice", every=False, act=at(20.0))
    one = book.revoke(second.split("_")[1], every=False, act=at(20.0))
    assert [opens(one, key, now=21.0) for key in (texts["alice"], second)] == [True, False]
    none = book.revoke("alice", every=True, act=at(20.0))
    assert [opens(none, key, now=21.0) for key in (texts["alice"], second)] == [False, False]
    with pytest.raises(AccountError, match="no live key"):
        none.revoke("alice", every=True, act=at(30.0))


def test_a_suspended_account_is_told_so_only_with_its_key() -> None:
    """403 for who can prove it, 401 for everybody else; and back."""
    book, texts = book_with("alice")
    book = book.suspend("alice", suspended=True, act=at(1.0))
    with pytest.raises(SuspendedError):
        accounts_of(book).authenticate(texts["alice"])
    assert not opens(book, texts["alice"][:-1] + "0", now=2.0)
    assert opens(book.suspend("alice", suspended=False, act=at(2.0)), texts["alice"], now=3.0)


@pytest.mark.parametrize("name", ["alice", "a", "0day", "team-7.vision_x", "1.2.3", "a" * 63])
def test_names_that_need_no_quoting(name: str) -> None:
    """Lower case, digits and three marks."""
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "Alice", "al ice", "-a", ".a", "a/b", "a\nb", "a" * 64, "ünal", "127.0.0.1", "10.1.2.3", "::1", "unknown"]
)
def test_names_that_are_refused(name: str) -> None:
    """Addresses above all: they are what clients without keys are called."""
    with pytest.raises(AccountError):
        check_name(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda book: book.create("alice", Account(created=0.0), pepper=PEPPER, act=at(1.0)),
        lambda book: book.rotate("nobody", overlap_seconds=0.0, pepper=PEPPER, act=at(1.0)),
        lambda book: book.revoke("nobody", every=True, act=at(1.0)),
        lambda book: book.suspend("nobody", suspended=True, act=at(1.0)),
        lambda book: book.suspend("alice", suspended=False, act=at(1.0)),
        lambda book: book.modify("nobody", {"per_day": 7}, act=at(1.0)),
        lambda book: book.modify("alice", {"profile": None}, act=at(1.0)),
    ],
)
def test_changes_that_make_no_sense_are_errors(change: Callable[[Book], object]) -> None:
    """One line each."""
    with pytest.raises(AccountError) as caught:
        change(book_with("alice")[0])
    assert "\n" not in str(caught.value)


def test_a_change_says_who_did_what_to_whom() -> None:
    """Every version of the book carries its own; neither keys nor digests are in it."""
    book, texts = book_with("alice")
    key_id = texts["alice"].split("_")[1]
    assert book.change is not None
    assert book.change.model_dump() == {
        "what": "created", "account": "alice", "keys": (key_id,), "settings": {}, "by": "root@here", "time": 0.0,
    }  # fmt: skip


def test_what_is_different_for_an_account() -> None:
    """Its profile and limits; everyone else has none of their own."""
    accounts = accounts_of(book_with("alice", profile="open", per_minute=5)[0])
    assert accounts.profile_of("alice") == "open"
    assert accounts.limits_of("alice") == (5, None)
    assert accounts.profile_of("127.0.0.1") is None
    assert accounts.limits_of("127.0.0.1") == (None, None)


def test_what_is_different_can_be_changed() -> None:
    """The keys stay, and the change says what is so now."""
    book, texts = book_with("alice", profile=ProfileName.OPEN, per_minute=5)
    assert book.change is not None
    assert book.change.settings == {"profile": "open", "per_minute": 5}
    changed = book.modify("alice", {"profile": None, "per_day": 70}, act=at(1.0))
    accounts = accounts_of(changed)
    assert accounts.profile_of("alice") is None
    assert accounts.limits_of("alice") == (5, 70)
    assert opens(changed, texts["alice"], now=2.0)
    assert changed.change is not None
    assert (changed.change.what, changed.change.settings) == ("changed", {"profile": None, "per_day": 70})


def test_the_first_account_closes_the_door_for_good() -> None:
    """Revoking the last key doesn't let everybody in."""
    assert not accounts_of(Book()).need_keys
    book, _ = book_with("alice")
    assert accounts_of(book.revoke("alice", every=True, act=at(1.0))).need_keys


def test_a_book_that_was_never_read_lets_nobody_in() -> None:
    """Whether keys are needed is not known: 503, not an open door."""
    accounts = Accounts(pepper=PEPPER)
    with pytest.raises(OverloadedError):
        accounts.authenticate(book_with("alice")[1]["alice"])
    with pytest.raises(OverloadedError):
        _ = accounts.need_keys


def test_a_book_that_cant_be_understood_changes_nothing() -> None:
    """What was in force stays so; fields of a later release are ignored."""
    book, texts = book_with("alice")
    accounts = accounts_of(book)
    accounts.follow(Document(NAME, 2, {"accounts": {"alice": {"created": "yesterday"}}, "keys": 7}))
    assert accounts.authenticate(texts["alice"]) == "alice"
    later = book.body()
    later["accounts"]["alice"]["colour"] = "blue"
    accounts.follow(Document(NAME, 3, later))
    assert accounts.authenticate(texts["alice"]) == "alice"


def test_two_commands_at_once_both_count(tmp_path: Path) -> None:
    """Who was second reads again and decides again."""
    settings = read_settings(state=tmp_path)

    def create(name: str) -> str:
        return changed(settings, lambda book, act: book.create(name, Account(created=0.0), pepper=PEPPER, act=act))

    def create_alice_while_bob_is_created(book: Book, act: Act) -> tuple[Book, str]:
        if not book.accounts:
            with ThreadPoolExecutor() as other:
                other.submit(create, "bob").result()
        return book.create("alice", Account(created=0.0), pepper=PEPPER, act=act)

    changed(settings, create_alice_while_bob_is_created)
    document = asyncio.run(open_documents(settings).read(NAME))
    assert document is not None
    assert document.version == 2
    assert set(Book.parse(document.body).accounts) == {"alice", "bob"}


async def written(documents: FileDocuments, *books: Book) -> None:
    for book in books:
        await documents.write(NAME, book.body(), expected=await documents.newest(NAME))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110, what is waited for is another task's doing
            await asyncio.sleep(0.01)


def test_another_secret_makes_no_keys() -> None:
    """A key made with a secret that no server has would never work: that is said before it is handed out."""
    book, _ = book_with("alice")
    with pytest.raises(AccountError, match="another secret"):
        book.create("bob", Account(created=0.0), pepper=b"q" * 32, act=at(1.0))
    with pytest.raises(AccountError, match="another secret"):
        book.rotate("alice", overlap_seconds=0.0, pepper=b"q" * 32, act=at(1.0))
    assert book.suspend("alice", suspended=True, act=at(1.0)).seal == book.seal


@pytest.mark.anyio
async def test_replicas_follow_and_record_each_change_once(tmp_path: Path) -> None:
    """Changes before the start, while two replicas run: each is recorded by one of them, and both know the newest book."""
    book, texts = book_with("alice")
    suspended = book.suspend("alice", suspended=True, act=at(1.0))
    recorded: list[dict[str, Any]] = []

    async def record(event: dict[str, Any]) -> None:
        recorded.append(event)

    one, two = FileDocuments(tmp_path), FileDocuments(tmp_path)
    await written(one, book)
    first, second = Accounts(pepper=PEPPER), Accounts(pepper=PEPPER)
    async with following(first, one, record=record), following(second, two, record=record):
        assert first.authenticate(texts["alice"]) == second.authenticate(texts["alice"]) == "alice"
        await written(one, suspended)
        await until(lambda: len(recorded) >= 2)
        for accounts in (first, second):
            await until(lambda accounts=accounts: _is_suspended(accounts, texts["alice"]))  # type: ignore[misc]
    assert [event["what"] for event in recorded] == ["created", "suspended"]
    assert {event["event"] for event in recorded} == {"accounts"}
    assert texts["alice"].split("_")[2] not in str(recorded)
    assert all(key.digest not in str(recorded) for key in book.keys.values())


def _is_suspended(accounts: Accounts, text: str) -> bool:
    try:
        accounts.authenticate(text)
    except SuspendedError:
        return True
    return False


@pytest.mark.anyio
async def test_a_change_counts_while_the_audit_log_is_away_and_is_recorded_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspension doesn't wait until it can be recorded, and no change is lost."""
    monkeypatch.setattr("app.accounts.following.RETRY_SECONDS", 0.01)
    book, texts = book_with("alice")
    documents, accounts, is_away = FileDocuments(tmp_path), Accounts(pepper=PEPPER), True
    recorded: list[str] = []

    async def record(event: dict[str, Any]) -> None:
        if is_away:
            raise StoreError("away")
        recorded.append(event["what"])

    await written(documents, book)
    async with following(accounts, documents, record=record):
        await written(documents, book.suspend("alice", suspended=True, act=at(1.0)))
        await until(lambda: _is_suspended(accounts, texts["alice"]))
        is_away = False
        await until(lambda: len(recorded) >= 2)
    assert recorded == ["created", "suspended"]


@pytest.mark.anyio
async def test_a_start_without_documents_waits_for_the_newest_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused until they are back, and then never through an old version: a key that was revoked opens nothing on the way."""
    monkeypatch.setattr("app.accounts.following.RETRY_SECONDS", 0.01)
    book, texts = book_with("alice")
    documents = FileDocuments(tmp_path)
    await written(documents, book, book.revoke("alice", every=True, act=at(1.0)))
    is_away = True

    class Away(FileDocuments):
        async def newest(self, name: str) -> int:
            if is_away:
                raise DocumentsError("away")
            return await super().newest(name)

        async def read(self, name: str) -> Document | None:
            await self.newest(name)
            return await super().read(name)

    async def record(_: dict[str, Any]) -> None:
        return

    accounts = Accounts(pepper=PEPPER)
    async with following(accounts, Away(tmp_path), record=record):
        with pytest.raises(OverloadedError):
            accounts.authenticate(texts["alice"])
        is_away = False
        await until(lambda: accounts.is_known)
        with pytest.raises(UnauthorizedError):
            accounts.authenticate(texts["alice"])


def test_settings_are_read_as_serve_reads_them() -> None:
    """The section has one key."""
    assert read_settings(assignments=["accounts.anonymous=refuse"]).accounts.anonymous == "refuse"
    assert Settings().accounts.anonymous == "auto"
