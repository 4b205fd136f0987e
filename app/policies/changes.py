"""The document `policy`: what operators change, what every replica follows, and what is recorded once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.documents import BrokenError, ConflictError, Document, Documents, DocumentsError, watch
from app.policies.live import InForce, Policies
from app.policies.reloadable import differences, in_one_line, said, with_values
from app.profiles import ProfileName
from app.settings import Settings, SettingsError
from defenses.calibration import CalibrationError
from defenses.ending_tasks import end
from defenses.stores.protocol import StoreError

NAME = "policy"

log = logging.getLogger(__name__)
Sections = dict[str, dict[str, Any]]


class Change(BaseModel):
    """What an operator asks for: what is not given stays as it is, but all of it starts from `profile` where one is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: ProfileName | None = None
    settings: Sections = Field(default_factory=dict)
    shadow: bool = False
    comment: str = Field("", max_length=500)
    expected: int | None = Field(None, ge=0)


class Entry(BaseModel):
    """One version. `profile` is None for the settings that each server was started with; `restores` is the version brought back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: ProfileName | None = None
    settings: Sections = Field(default_factory=dict)
    stage: Literal["live", "shadow"]
    restores: int | None = None
    by: str
    comment: str = ""
    time: str
    change: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Self:
        """Read a version. Raises SettingsError where it is none of ours."""
        try:
            return cls.model_validate(document.body)
        except ValidationError as error:
            raise SettingsError(in_one_line(error)) from None

    def applied(self, started: Settings) -> Settings:
        """The settings that this version says. Raises SettingsError."""
        return started if self.profile is None else with_values(started, profile=self.profile, values=self.settings)


class PolicyChanges:
    """Follow the document on this server, and write its next versions.

    The newest live version is in force, and the newest one of all is on trial if it is a candidate. A version that can't be understood
    or built here is said and passed over: the last good one stays in force. History is never rewritten: going back is a new version.
    """

    def __init__(
        self, policies: Policies, documents: Documents, *, record: Callable[[dict[str, Any]], Awaitable[None]],
        on_change: Callable[[InForce], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._policies, self._documents, self._record, self._on_change = policies, documents, record, on_change
        self._lock = asyncio.Lock()
        self._newest = self._recorded = 0

    @asynccontextmanager
    async def following(self, *, seconds: float = 1.0) -> AsyncIterator[None]:
        """Put the newest version into force, and every later one within about `seconds`."""

        async def on_change(_: Document) -> None:
            await self.look()

        try:
            await self.look()
        except (DocumentsError, StoreError) as error:
            log.warning("the policy can't be read yet, the settings of the start are in force: %s", error)
        seen = self._recorded  # what is in force but not yet recorded is looked at again
        follower = asyncio.create_task(watch(self._documents, NAME, on_change, seen=seen, seconds=seconds))
        try:
            yield
        finally:
            await end([follower])

    async def look(self) -> None:
        """Follow what is newest now. Raises DocumentsError, and StoreError where it is in force but could not be recorded."""
        async with self._lock:
            await self._look()

    async def change(self, change: Change, *, by: str) -> None:
        """Write a change as the next version, live or as a candidate, and follow it.

        Raises SettingsError or CalibrationError and changes nothing where it makes no sense, ConflictError where `expected` is not
        the newest version, DocumentsError, StoreError.
        """
        async with self._prepared(change.expected):
            started, live = self._policies.started, self._policies.in_force.live.settings
            profile = change.profile or live.profile
            kept = {} if change.profile else said(live, started=started)
            values = {name: {**kept.get(name, {}), **change.settings.get(name, {})} for name in {**kept, **change.settings}}
            settings = with_values(started, profile=profile, values=values)
            self._policies.policy(settings)  # what can't be built is not written
            entry = self._entry(settings, stage="shadow" if change.shadow else "live", by=by, comment=change.comment)
            await self._write(entry)

    async def promote(self, *, by: str, comment: str = "", expected: int | None = None) -> None:
        """Put the candidate into force. Raises ConflictError where there is none, and as `change` does."""
        async with self._prepared(expected):
            candidate = self._policies.in_force.candidate
            if candidate is None:
                raise ConflictError("no candidate is on trial")
            await self._write(self._entry(candidate.settings, stage="live", by=by, comment=comment))

    async def roll_back(self, *, by: str, comment: str = "", expected: int | None = None) -> None:
        """Undo one step: give up the candidate where there is one, else go back to the live version before.

        Going back again goes further back, to version 0 at last: the settings that each server was started with. Raises ConflictError
        there, and as `change` does.
        """
        async with self._prepared(expected):
            now = self._policies.in_force
            number, entry = await self._origin(now.live_version)
            if now.candidate is None:
                if number == 0:
                    raise ConflictError("the settings of the start are in force; there is nothing before them")
                number, entry = await self._origin(await self._live_below(number))
            settings = entry.applied(self._policies.started) if entry else self._policies.started
            back = self._entry(settings, stage="live", by=by, comment=comment).model_copy(update={"restores": number})
            if entry is None or entry.profile is None:
                back = back.model_copy(update={"profile": None, "settings": {}})
            await self._write(back)

    async def history(self, *, limit: int) -> list[dict[str, Any]]:
        """The newest versions, newest first. Raises DocumentsError."""
        return [{"version": document.version, **document.body} for document in await self._documents.history(NAME, limit=limit)]

    @asynccontextmanager
    async def _prepared(self, expected: int | None) -> AsyncIterator[None]:
        async with self._lock:
            await self._look()
            newest = self._policies.in_force.version
            if expected is not None and expected != newest:
                raise ConflictError(f"version {newest} is the newest one, not {expected}")
            yield
            await self._look()

    def _entry(self, settings: Settings, *, stage: Literal["live", "shadow"], by: str, comment: str) -> Entry:
        return Entry(
            profile=settings.profile,
            settings=said(settings, started=self._policies.started),
            stage=stage,
            by=by,
            comment=comment,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            change=differences(self._policies.in_force.live.settings, settings),
        )

    async def _write(self, entry: Entry) -> None:
        body = entry.model_dump(mode="json")
        await self._documents.write(NAME, body, expected=self._newest)

    async def _origin(self, number: int) -> tuple[int, Entry | None]:
        """The version whose content a live version is, and it; 0 and None for the settings of the start."""
        document = await self._documents.version(NAME, number)
        entry = Entry.of(document) if document else None
        return (number if entry is None or entry.restores is None else entry.restores), entry

    async def _live_below(self, number: int) -> int:
        while number := max(0, number - 1):
            with suppress(BrokenError, SettingsError):
                document = await self._documents.version(NAME, number)
                if document and Entry.of(document).stage == "live":
                    break
        return number

    async def _look(self) -> None:
        self._newest = newest = await self._documents.newest(NAME)
        if newest not in {0, self._policies.in_force.version}:  # documents that vanished change nothing
            self._policies.in_force = await self._in_force(newest)
            self._on_change(self._policies.in_force)
        await self._record_up_to(newest)

    async def _in_force(self, newest: int) -> InForce:
        candidate = None
        for number in range(newest, 0, -1):
            try:
                document = await self._documents.version(NAME, number)
                if document is None:
                    continue
                entry = Entry.of(document)
                settings = entry.applied(self._policies.started)
                if entry.stage == "live":
                    return InForce(newest, number, self._policies.policy(settings), candidate)
                if number == newest:
                    candidate = self._policies.candidate(settings, version=number)
            except (BrokenError, SettingsError, CalibrationError) as error:
                log.error("policy version %d is not in force here: %s", number, error)
        return InForce(newest, 0, self._policies.policy(self._policies.started), candidate)

    async def _record_up_to(self, newest: int) -> None:
        if newest < self._recorded:
            self._recorded = 0
        mine = []
        for number in range(newest, self._recorded, -1):
            if not await self._documents.claim(NAME, number):
                break  # whoever claimed this one saw to those before it
            mine.append(number)
        for number in reversed(mine):
            await self._record({"event": "policy", "version": number, **await self._told(number)})
            self._recorded = number
        self._recorded = newest

    async def _told(self, number: int) -> dict[str, Any]:
        """What the audit log says about a version."""
        try:
            document = await self._documents.version(NAME, number)
            entry = Entry.of(document) if document else None
        except (BrokenError, SettingsError) as error:
            return {"by": None, "unusable": str(error)}
        return entry.model_dump(mode="json", include={"by", "comment", "stage", "restores", "change", "time"}) if entry else {}
