"""Health of the process and of the model."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.errors import OverloadedError
from app.public.problems import documented
from app.service import Service

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Everything is well; anything else is a problem."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Liveness")
async def healthz() -> Health:
    """Say that the process lives."""
    return Health()


@router.get("/readyz", summary="Readiness", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
async def readyz(request: Request) -> Health:
    """Say whether a warmed model takes queries; not while draining."""
    ready_or_503(request)
    return Health()


def ready_or_503(request: Request) -> None:
    """Raise OverloadedError unless the service takes queries."""
    service: Service | None = getattr(request.app.state, "service", None)
    if service is None or service.draining:
        raise OverloadedError("shutdown")
