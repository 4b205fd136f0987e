"""The policy over HTTP: what is in force, its history, and changes to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from app.documents import ConflictError, DocumentsError
from app.policies import Change, in_one_line, shown
from app.service import Service
from app.settings import SettingsError
from defenses.calibration import CalibrationError
from defenses.stores.protocol import StoreError

BY: Final = "admin"  # there is one token
MOST_BYTES: Final = 65_536

routes = APIRouter()
Asked = TypeVar("Asked", bound=BaseModel)


class Step(BaseModel):
    """What a promotion or a way back may say; both may come without a body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    comment: str = Field("", max_length=500)
    expected: int | None = Field(None, ge=0)


@routes.get("/v1/policy")
async def policy(request: Request) -> dict[str, Any]:
    """What is in force: profile, model, every setting, the version and what is on trial; secrets are masked."""
    return _in_force(request.app.state.service)


@routes.put("/v1/policy")
async def change(request: Request) -> dict[str, Any]:
    """Change profile or settings: at once, or with `shadow` as a candidate."""
    service: Service = request.app.state.service
    async with _as_problems():
        await service.policy_changes.change(await _asked(request, Change), by=BY)
    return _in_force(service)


@routes.post("/v1/policy/promote")
async def promote(request: Request) -> dict[str, Any]:
    """Put the candidate into force."""
    service: Service = request.app.state.service
    async with _as_problems():
        step = await _asked(request, Step)
        await service.policy_changes.promote(by=BY, comment=step.comment, expected=step.expected)
    return _in_force(service)


@routes.post("/v1/policy/rollback")
async def roll_back(request: Request) -> dict[str, Any]:
    """Give up the candidate, or go back to the policy before."""
    service: Service = request.app.state.service
    async with _as_problems():
        step = await _asked(request, Step)
        await service.policy_changes.roll_back(by=BY, comment=step.comment, expected=step.expected)
    return _in_force(service)


@routes.get("/v1/policy/history")
async def history(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """Every version, newest first. Version 0, the settings of the start, is not among them."""
    service: Service = request.app.state.service
    async with _as_problems():
        return {"versions": await service.policy_changes.history(limit=limit)}


def _in_force(service: Service) -> dict[str, Any]:
    now, manifest = service.policies.in_force, service.bundle.manifest
    settings = now.live.settings.policy()
    return {
        "profile": settings.pop("profile"),
        "version": now.version,
        "live_version": now.live_version,
        "stage": "shadow" if now.candidate else "live",
        "candidate": shown(now.candidate, live=now.live.settings),
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "precision": service.bundle.precision,
            "providers": service.bundle.providers,
        },
        "settings": {section: values for section, values in settings.items() if isinstance(values, dict)},
    }


async def _asked(request: Request, kind: type[Asked]) -> Asked:
    """The body as JSON. A form of another site can't send that type, and an empty body says nothing."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise HTTPException(413, "A policy is smaller than that.", {"connection": "close"})
    if body and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send application/json.")
    try:
        return kind.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        raise HTTPException(422, in_one_line(error)) from None


@asynccontextmanager
async def _as_problems() -> AsyncIterator[None]:
    try:
        yield
    except (SettingsError, CalibrationError) as error:
        raise HTTPException(422, str(error)) from error
    except ConflictError as error:
        raise HTTPException(409, str(error)) from error
    except (DocumentsError, StoreError) as error:
        raise HTTPException(503, str(error)) from error
