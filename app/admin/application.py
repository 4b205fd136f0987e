"""`create_admin(service)`: metrics, clients, policy, audit and the live page, behind a token."""

import base64
import hmac
import secrets
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app import __version__
from app.public import problems
from app.service import Service

PAGE = Path(__file__).with_name("ui.html")
Limit = Annotated[int, Query(ge=1, le=1000)]


def create_admin(service: Service) -> FastAPI:
    """Build the admin application of a running service."""
    app = FastAPI(title="Cloneguard admin", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    problems.install(app)
    app.include_router(open_routes)
    app.include_router(guarded_routes)
    return app


def require_host(request: Request) -> None:
    """Refuse names that a rebound DNS entry might carry: a browser's own page must not read this port."""
    service: Service = request.app.state.service
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name not in service.settings.admin.hosts:
        raise HTTPException(400, "This Host is not served here; see the setting admin.hosts.")


def require_token(request: Request) -> None:
    """Ask for the admin token, as Bearer or as the password of the user `admin`."""
    service: Service = request.app.state.service
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    given = credentials
    if scheme.lower() == "basic":
        try:
            user, _, given = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:  # not base64, or not UTF-8
            user = ""
        given = given if user == "admin" else ""
    if scheme.lower() not in {"basic", "bearer"} or not hmac.compare_digest(given.encode(), service.admin_token.encode()):
        raise HTTPException(401, "The admin token is needed.", {"www-authenticate": 'Basic realm="cloneguard admin", charset="UTF-8"'})


open_routes = APIRouter()
guarded_routes = APIRouter(prefix="/admin", dependencies=[Depends(require_host), Depends(require_token)])


@open_routes.get("/metrics")
async def metrics(request: Request) -> Response:
    """Give Prometheus its text."""
    service: Service = request.app.state.service
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@guarded_routes.get("/v1/clients")
async def clients(request: Request, limit: Limit = 100) -> dict[str, Any]:
    """The busiest clients and what they did."""
    service: Service = request.app.state.service
    return {
        "clients": [
            {
                "client": summary.client,
                "queries": summary.queries,
                "ood": summary.flagged,
                "near_duplicates": summary.near_duplicates,
                "misrecognized": summary.altered,
                "first_seen": _iso(summary.first_seen),
                "last_seen": _iso(summary.last_seen),
            }
            for summary in await service.store.clients(limit=limit)
        ]
    }


@guarded_routes.get("/v1/policy")
async def policy(request: Request) -> dict[str, Any]:
    """What is in force: profile, model, every setting; secrets are masked."""
    service: Service = request.app.state.service
    manifest = service.bundle.manifest
    settings = service.settings.policy()
    return {
        "profile": settings.pop("profile"),
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "precision": service.bundle.precision,
            "providers": service.bundle.providers,
        },
        "settings": {section: values for section, values in settings.items() if isinstance(values, dict)},
    }


@guarded_routes.get("/v1/audit")
async def audit(
    request: Request, after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100, order: Literal["oldest", "newest"] = "oldest"
) -> dict[str, Any]:
    """Audit records after a sequence number, oldest first, or the newest ones. `next` is the `after` of the next page."""
    service: Service = request.app.state.service
    records = await service.store.audit(after=after, limit=limit, newest=order == "newest")
    shown = [{"sequence": record.sequence, **orjson.loads(record.body), "link": record.link.hex()} for record in records]
    return {"records": shown, "next": max((record.sequence for record in records), default=after)}


@guarded_routes.get("/ui")
async def page() -> Response:
    """The live page: one file, no other origin."""
    nonce = secrets.token_urlsafe(16)
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:"
    headers = {
        "content-security-policy": f"{policy}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(_page().replace("{{nonce}}", nonce), headers=headers, media_type="text/html")


@cache
def _page() -> str:
    return PAGE.read_text(encoding="utf-8")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
