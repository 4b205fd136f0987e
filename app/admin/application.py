"""`create_admin(service)`: metrics, clients, policy, audit, evidence and the live page, behind a token."""

import asyncio
import secrets
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from app import __version__
from app.admin import policy
from app.admin.guards import require_host, require_same_origin, require_token
from app.public import problems
from app.service import Service
from defenses.evidence.vault import Vault
from defenses.stores.protocol import StoreError

PAGE = Path(__file__).with_name("ui.html")
SHOWN_CLIENTS = 100  # with most triggers
Limit = Annotated[int, Query(ge=1, le=1000)]


def create_admin(service: Service) -> FastAPI:
    """Build the admin application of a running service."""
    app = FastAPI(title="Cloneguard admin", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    problems.install(app)
    app.add_exception_handler(StoreError, _store_is_away)
    app.include_router(open_routes)
    guards = [Depends(guard) for guard in (require_host, require_token, require_same_origin)]
    for routes in (guarded_routes, policy.routes):
        app.include_router(routes, prefix="/admin", dependencies=guards)
    return app


open_routes = APIRouter()
guarded_routes = APIRouter()


@open_routes.get("/metrics")
async def metrics(request: Request) -> Response:
    """Give Prometheus its text."""
    service: Service = request.app.state.service
    service.metrics.neighbourhoods.set(await service.store.neighbourhoods())
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@guarded_routes.get("/v1/clients")
async def clients(request: Request, limit: Limit = 100) -> dict[str, Any]:
    """The busiest clients and what they did; `account` tells names from addresses."""
    service: Service = request.app.state.service
    return {
        "clients": [
            {
                "client": summary.client,
                "account": summary.client in service.accounts,
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


@guarded_routes.get("/v1/audit")
async def audit(
    request: Request, after: Annotated[int, Query(ge=0, lt=2**53)] = 0, limit: Limit = 100, order: Literal["oldest", "newest"] = "oldest"
) -> dict[str, Any]:
    """Audit records after a sequence number, oldest first, or the newest ones. `next` is the `after` of the next page."""
    service: Service = request.app.state.service
    records = await service.store.audit(after=after, limit=limit, newest=order == "newest")
    shown = [{**_said(record.body), "sequence": record.sequence, "link": record.link.hex()} for record in records]
    return {"records": shown, "next": max((record.sequence for record in records), default=after)}


@guarded_routes.get("/v1/evidence")
async def evidence(request: Request) -> dict[str, Any]:
    """What the vault holds: who was told how many watermarked answers, and the head that commits to all of them."""
    service: Service = request.app.state.service
    path = service.settings.evidence_path()
    if not service.settings.evidence.enabled:
        return {"enabled": False}
    return {"enabled": True, **await asyncio.to_thread(_evidence, path)}


def _evidence(path: Path) -> dict[str, Any]:
    with Vault(path) as vault:
        sequence, link = vault.head()
        triggers, length = vault.size()
        head = {"sequence": sequence, "link": link.hex()}
        return {"triggers": triggers, "image_bytes": length, "head": head, "clients": vault.clients(limit=SHOWN_CLIENTS)}


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


def _said(body: bytes) -> dict[str, Any]:
    """What a record says; one that somebody damaged must not hide the others."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    return said if isinstance(said, dict) else {"unreadable": body.hex()}


async def _store_is_away(_: Request, error: Exception) -> Response:
    return problems.problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
