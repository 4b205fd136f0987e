"""Errors as `application/problem+json` (RFC 9457): neutral texts that never name a defence."""

import logging
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.errors import OverloadedError, ProblemError, QuotaExceededError, UnauthorizedError
from app.service import RETRY_AFTER_SECONDS

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What every error looks like (RFC 9457)."""

    type: str = Field("about:blank", description="Always about:blank: the status says it all.")
    title: str = Field(examples=["Unsupported Media Type"])
    status: int = Field(examples=[415])
    detail: str = Field(examples=["Send image/jpeg, image/png, image/webp, multipart/form-data with a field `file`, or application/json."])


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, object]]:
    """OpenAPI's `responses` for an operation that may fail with these statuses."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {
                MEDIA_TYPE: {
                    "schema": Problem.model_json_schema(),
                    "example": {
                        "type": "about:blank",
                        "title": status.phrase,
                        "status": int(status),
                        "detail": status.description or status.phrase,
                    },
                }
            },
        }
        for status in statuses
    }


def problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> Response:
    """One error answer."""
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return Response(orjson.dumps(body), int(status), headers, MEDIA_TYPE)


def answer(request: Request, error: ProblemError) -> Response:
    """The answer to a request that failed with `error`; an unread body closes the connection."""
    headers = dict(getattr(request.state, "headers", {}))
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    elif isinstance(error, QuotaExceededError):
        headers |= {**error.headers, "retry-after": str(error.seconds)}
    elif isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = 'Bearer realm="cloneguard"'
    if error.status in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
        headers["connection"] = "close"
    return problem(error.status, str(error), headers)


def bug(request: Request, error: Exception) -> Response:
    """The answer to a request that met a bug; what it was is in the log, not in the answer."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    headers = dict(getattr(request.state, "headers", {}))
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The request could not be answered.", headers)


def install(app: FastAPI) -> None:
    """Answer every error of an application as a problem."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return answer(request, error)

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        return problem(status, error.detail, dict(error.headers or {}))

    async def on_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The request's parameters are not valid.")

    async def on_bug(request: Request, error: Exception) -> Response:
        return bug(request, error)

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_bug)
