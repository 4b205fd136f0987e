"""`cloneguard keys`: make, list, rotate and end the keys of accounts, beside running servers."""

import asyncio
import getpass
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table

from app.accounts.book import Account, Act, Book
from app.accounts.live import NAME
from app.documents import ConflictError, open_documents
from app.keys import derive, load_or_create
from app.profiles import PROFILES, ProfileName
from app.settings import Settings, read_settings

TRIES = 20  # of a change while others change the book too

keys = typer.Typer(help="Accounts and their keys: who may ask, and how much.", no_args_is_help=True)
console = Console(stderr=True, highlight=False, soft_wrap=True)

NameArgument = Annotated[str, typer.Argument(help="The account: a-z, 0-9 and ._-")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="One setting: section.key=value; repeatable.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
ProfileOption = Annotated[ProfileName | None, typer.Option(help=f"What its answers go through instead: {', '.join(PROFILES)}.")]
PerMinuteOption = Annotated[int | None, typer.Option(min=0, max=2**53, help="Its queries a minute, instead of limits.per_minute.")]
PerDayOption = Annotated[int | None, typer.Option(min=0, max=2**53, help="Its queries a day, instead of limits.per_day.")]
StateOption = Annotated[Path | None, typer.Option(help="Directory of the secret and the documents, as the servers have it.")]
StoreOption = Annotated[str | None, typer.Option(help="Store URL, as the servers have it.")]
Result = TypeVar("Result")


class OwnSetting(StrEnum):
    """What an account may have of its own, as the command line calls it."""

    PROFILE = "profile"
    PER_MINUTE = "per-minute"
    PER_DAY = "per-day"


@keys.command()
def create(
    name: NameArgument,
    *, profile: ProfileOption = None, per_minute: PerMinuteOption = None, per_day: PerDayOption = None,
    state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """Make an account and print its first key: on standard output, and only now."""
    settings = _settings(state, store, config, assignments)
    pepper = pepper_of(settings)
    account = Account(created=time.time(), profile=profile, per_minute=per_minute, per_day=per_day)
    _show(changed(settings, lambda book, act: book.create(name, account, pepper=pepper, act=act)))


@keys.command()
def change(
    name: NameArgument,
    *, profile: ProfileOption = None, per_minute: PerMinuteOption = None, per_day: PerDayOption = None,
    default: Annotated[list[OwnSetting] | None, typer.Option(help="What is to be as for everyone again; repeatable.")] = None,
    state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """Give an account another profile or other limits; its keys stay."""
    given = {"profile": profile, "per_minute": per_minute, "per_day": per_day}
    own = {setting: value for setting, value in given.items() if value is not None}
    back = {setting.replace("-", "_") for setting in default or ()}
    if not own and not back:
        raise typer.BadParameter("name what is to change: --profile, --per-minute, --per-day or --default")
    if twice := own.keys() & back:
        raise typer.BadParameter(f"{', '.join(sorted(twice))}: its own and the default at once")
    settings = own | dict.fromkeys(back)
    changed(_settings(state, store, config, assignments), lambda book, act: (book.modify(name, settings, act=act), None))


@keys.command("list")
def list_keys(
    *, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """List accounts and keys; never what opens them."""
    book = asyncio.run(_read(_settings(state, store, config, assignments)))
    rows = rows_of(book, now=time.time())
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    table = Table("account", "state", "profile", "a minute", "a day", Column("key", no_wrap=True), "key's state")
    for row in rows:
        first = (row["account"], row["state"], row["profile"] or "", _number(row["per_minute"]), _number(row["per_day"]))
        for place, key in enumerate(row["keys"]):
            table.add_row(*(first if place == 0 else [""] * len(first)), key["id"], key["state"])
    Console().print(table)


@keys.command()
def rotate(
    name: NameArgument,
    *,
    overlap: Annotated[float, typer.Option(min=0.0, help="Hours for which the old key stays alive.")] = 24.0,
    now: Annotated[bool, typer.Option("--now", help="End the old key at once.")] = False,
    state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """Print a new key of an account; its newest old one stays alive for the overlap, older ones end."""
    settings = _settings(state, store, config, assignments)
    pepper, seconds = pepper_of(settings), 0.0 if now else overlap * 3600
    _show(changed(settings, lambda book, act: book.rotate(name, overlap_seconds=seconds, pepper=pepper, act=act)))


@keys.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="KEY_ID|NAME", help="A key, or an account with one live key.")],
    *,
    every: Annotated[bool, typer.Option("--all", help="All keys of the account.")] = False,
    state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """End a key, for good: servers refuse it within about a second."""
    changed(_settings(state, store, config, assignments), lambda book, act: (book.revoke(which, every=every, act=act), None))


@keys.command()
def suspend(
    name: NameArgument,
    *, state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """Close an account (403) without touching its keys."""
    changed(_settings(state, store, config, assignments), lambda book, act: (book.suspend(name, suspended=True, act=act), None))


@keys.command()
def resume(
    name: NameArgument,
    *, state: StateOption = None, store: StoreOption = None, config: ConfigOption = None, assignments: SetOption = None,
) -> None:  # fmt: skip
    """Open a suspended account again."""
    changed(_settings(state, store, config, assignments), lambda book, act: (book.suspend(name, suspended=False, act=act), None))


def pepper_of(settings: Settings) -> bytes:
    """The key under which keys are kept, from the deployment's secret, which is made here if no server has made it yet."""
    return derive(load_or_create(settings.state, "secret", settings.secret), "keys")


def changed(settings: Settings, change: Callable[[Book, Act], tuple[Book, Result]]) -> Result:
    """Write the next version of the book, again if somebody else was faster; returns what else `change` made.

    Raises AccountError, DocumentsError or ConflictError.
    """

    async def write() -> Result:
        documents = open_documents(settings)
        try:
            for _ in range(TRIES):
                document = await documents.read(NAME)
                book = Book() if document is None else Book.parse(document.body)
                book, made = change(book, Act(by=_who(), time=time.time()))
                try:
                    await documents.write(NAME, book.body(), expected=0 if document is None else document.version)
                except ConflictError:
                    continue
                return made
            raise ConflictError("too many others are changing the accounts; try again")
        finally:
            await documents.close()

    return asyncio.run(write())


def rows_of(book: Book, *, now: float) -> list[dict[str, Any]]:
    """Accounts and their keys for people and programs to read."""
    return [
        {
            "account": name,
            "state": "suspended" if account.suspended else "open",
            "created": _iso(account.created),
            "profile": account.profile,
            "per_minute": account.per_minute,
            "per_day": account.per_day,
            "keys": [
                {"id": key_id, "state": _state(key.revoked, key.ends, now), "created": _iso(key.created)}
                for key_id, key in book.keys_of(name).items()
            ],
        }
        for name, account in sorted(book.accounts.items())
    ]


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def _state(revoked: float | None, ends: float | None, now: float) -> str:
    if revoked is not None:
        return f"revoked {_iso(revoked)}"
    if ends is None:
        return "live"
    return f"{'live until' if now < ends else 'ended'} {_iso(ends)}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _number(limit: int | None) -> str:
    return "" if limit is None else f"{limit:,}"


def _show(key: str) -> None:
    sys.stdout.write(f"{key}\n")
    console.print("This key is shown once: hand it to its user. It works within a second or two.")


async def _read(settings: Settings) -> Book:
    documents = open_documents(settings)
    try:
        document = await documents.read(NAME)
    finally:
        await documents.close()
    return Book() if document is None else Book.parse(document.body)


def _settings(state: Path | None, store: str | None, config: Path | None, assignments: list[str] | None) -> Settings:
    given: dict[str, Any] = {"state": state} if state else {}
    if store:
        given["store"] = {"url": store}
    return read_settings(file=config, assignments=assignments or (), **given)
