"""Who may use the admin port: under its own names, with the token, and not from another site's page."""

import base64
import hmac

from fastapi import Request
from starlette.exceptions import HTTPException

from app.service import Service


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


def require_same_origin(request: Request) -> None:
    """Refuse changes that a page of another site sends with the token that the browser remembers."""
    origin = request.headers.get("origin")
    if request.method != "GET" and origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "Changes are not taken from other sites.")
