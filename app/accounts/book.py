"""The book of accounts: what the document `accounts` holds, and every change that can be made to it, as pure functions."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.accounts.key_text import digest_of, new_key
from app.profiles import ProfileName
from app.settings import Queries

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
RESERVED: Final = frozenset({"unknown"})  # a client without an address
OWN_SETTINGS: Final = {"profile", "per_minute", "per_day"}


class AccountError(Exception):
    """An account can't be changed as asked; the message says why on one line."""


class Entry(BaseModel):
    """A part of the document. Fields of a later release are ignored, so that releases can run side by side."""

    model_config = ConfigDict(frozen=True)


class Account(Entry):
    """One client with a name. What is None is as it is for everyone; limits are queries."""

    created: float
    suspended: bool = False
    profile: ProfileName | None = None
    per_minute: Queries | None = None
    per_day: Queries | None = None


class Key(Entry):
    """One key of an account. `digest` is its HMAC; times are seconds since the epoch.

    `revoked` does not depend on the clock: one that is set back brings no revoked key to life.
    """

    account: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: float
    ends: float | None = None
    revoked: float | None = None

    def is_live(self, now: float) -> bool:
        """Whether it opens the door at this moment."""
        return self.revoked is None and (self.ends is None or now < self.ends)


class Change(Entry):
    """Who changed what: this is recorded in the audit log. Neither a key nor what is kept of one is in it.

    `settings` are the account's own ones that were set, None where it is again as it is for everyone.
    """

    what: Literal["created", "changed", "rotated", "revoked", "suspended", "resumed"]
    account: str
    keys: tuple[str, ...] = ()
    settings: dict[str, str | int | None] = Field(default_factory=dict)
    by: str
    time: float


@dataclass(frozen=True, slots=True)
class Act:
    """Who changes the book, and when."""

    by: str
    time: float


class Book(Entry):
    """All accounts and keys, and the change that made this version of it; `seal` tells under which secret its keys are kept."""

    accounts: dict[str, Account] = Field(default_factory=dict)
    keys: dict[str, Key] = Field(default_factory=dict)
    change: Change | None = None
    seal: str | None = None

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Read a document's body. Raises AccountError."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise AccountError(f"the document of accounts: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def body(self) -> dict[str, Any]:
        """The document's body."""
        return self.model_dump(mode="json", exclude_none=True)

    def keys_of(self, name: str) -> dict[str, Key]:
        """An account's keys, oldest first."""
        mine = {key_id: key for key_id, key in self.keys.items() if key.account == name}
        return dict(sorted(mine.items(), key=lambda item: item[1].created))

    def live_keys_of(self, name: str, now: float) -> dict[str, Key]:
        """Those of an account's keys that open the door, oldest first."""
        return {key_id: key for key_id, key in self.keys_of(name).items() if key.is_live(now)}

    def create(self, name: str, account: Account, *, pepper: bytes, act: Act) -> tuple["Book", str]:
        """Add an account with its first key; returns that key's text, which nobody can tell again. Raises AccountError."""
        check_name(name)
        if name in self.accounts:
            raise AccountError(f"the account {name!r} exists; `cloneguard keys rotate {name}` gives it another key")
        seal = self._sealed(pepper)
        key_id, text = new_key()
        key = Key(account=name, digest=digest_of(text, pepper=pepper), created=act.time)
        own = account.model_dump(mode="json", include=OWN_SETTINGS, exclude_none=True)
        change = Change(what="created", account=name, keys=(key_id,), settings=own, by=act.by, time=act.time)
        return self._next(change, accounts={**self.accounts, name: account}, keys={**self.keys, key_id: key}, seal=seal), text

    def modify(self, name: str, settings: dict[str, Any], *, act: Act) -> "Book":
        """Give an account its own settings (of `OWN_SETTINGS`), or with None take one away; its keys stay. Raises AccountError."""
        self._require(name)
        old = self.accounts[name]
        new = old.model_copy(update=settings)
        if new == old:
            raise AccountError(f"the account {name!r} is so already")
        told = new.model_dump(mode="json", include=set(settings))
        change = Change(what="changed", account=name, settings=told, by=act.by, time=act.time)
        return self._next(change, accounts={**self.accounts, name: new})

    def rotate(self, name: str, *, overlap_seconds: float, pepper: bytes, act: Act) -> tuple["Book", str]:
        """Give an account a new key. Its newest one ends after the overlap, or at once if that is 0; older ones end at once.

        So at most two keys of an account are alive. Raises AccountError.
        """
        self._require(name)
        keys = dict(self.keys)
        live = list(self.live_keys_of(name, act.time))
        for place, old in enumerate(live):
            stays = overlap_seconds > 0 and place == len(live) - 1
            ends = min(keys[old].ends or float("inf"), act.time + overlap_seconds)
            keys[old] = keys[old].model_copy(update={"ends": ends} if stays else {"revoked": act.time})
        seal = self._sealed(pepper)
        key_id, text = new_key()
        keys[key_id] = Key(account=name, digest=digest_of(text, pepper=pepper), created=act.time)
        change = Change(what="rotated", account=name, keys=(key_id,), by=act.by, time=act.time)
        return self._next(change, keys=keys, seal=seal), text

    def revoke(self, which: str, *, every: bool, act: Act) -> "Book":
        """End a key by its id, or an account's only live key, or with `every` all of them. Raises AccountError."""
        if which in self.keys:
            name, ended = self.keys[which].account, [which]
        else:
            name = which
            self._require(name)
            ended = list(self.live_keys_of(name, act.time))
            if len(ended) > 1 and not every:
                raise AccountError(f"{name!r} has {len(ended)} live keys: name one of {', '.join(ended)}, or add --all")
        if not any(self.keys[key_id].is_live(act.time) for key_id in ended):
            raise AccountError(f"{which!r} has no live key")
        keys = {**self.keys, **{key_id: self.keys[key_id].model_copy(update={"revoked": act.time}) for key_id in ended}}
        change = Change(what="revoked", account=name, keys=tuple(ended), by=act.by, time=act.time)
        return self._next(change, keys=keys)

    def suspend(self, name: str, *, suspended: bool, act: Act) -> "Book":
        """Close an account without touching its keys, or open it again. Raises AccountError."""
        self._require(name)
        if self.accounts[name].suspended is suspended:
            raise AccountError(f"the account {name!r} is {'suspended already' if suspended else 'not suspended'}")
        accounts = {**self.accounts, name: self.accounts[name].model_copy(update={"suspended": suspended})}
        change = Change(what="suspended" if suspended else "resumed", account=name, by=act.by, time=act.time)
        return self._next(change, accounts=accounts)

    def _next(self, change: Change, **parts: Any) -> "Book":
        return self.model_copy(update={"change": change, **parts})

    def _sealed(self, pepper: bytes) -> str:
        """The seal of this secret. Raises AccountError where the keys there are were made with another: servers would know no new one."""
        seal = digest_of("the book of accounts", pepper=pepper)
        if self.seal not in {None, seal}:
            raise AccountError(
                "these accounts were made with another secret: run this with the --state or the CLONEGUARD_SECRET of their servers"
            )
        return seal

    def _require(self, name: str) -> None:
        if name not in self.accounts:
            raise AccountError(f"no account or key is called {name!r}")


def check_name(name: str) -> None:
    """Raise AccountError for a name that could be mistaken for an address, or that needs quoting in logs and metrics."""
    if not NAME.fullmatch(name) or name in RESERVED:
        raise AccountError(f"{name!r} is no account name: a-z, 0-9 and ._- after a letter or digit, at most 63")
    try:
        ip_address(name)
    except ValueError:
        return
    raise AccountError(f"{name!r} is an address, as clients without keys are called; take a name")
