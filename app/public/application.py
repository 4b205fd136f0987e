"""`create_app(settings)`: the public port as one ASGI application. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from app import __version__
from app.errors import ProblemError
from app.opening import open_service
from app.public import health, open_inference, predict, problems
from app.public.security import SCHEMES
from app.settings import Settings

DESCRIPTION = """Ask what is on an image. Three ways to send it to `/predict`, and the Open Inference Protocol v2 under `/v2`.

Errors are `application/problem+json` (RFC 9457). On 429 and 503, wait as long as `Retry-After` says. Where there are quotas,
`RateLimit` and `RateLimit-Policy` tell how many queries are left."""


class PublicApp(FastAPI):
    """FastAPI with a short way to the one route that is hot: past middleware, routing and validation it doesn't use."""

    def openapi(self) -> dict[str, Any]:
        """The document, with the ways to say who asks: they are not FastAPI's, which would ask before the hot route could."""
        document = super().openapi()
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
        return document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /predict` at once; everything else goes FastAPI's way."""
        if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        request = Request(scope, receive)
        try:
            response = await predict.predict(request)
        except ProblemError as error:
            response = problems.answer(request, error)
        except Exception as error:  # the last line of defence, as FastAPI's own
            response = problems.bug(request, error)
        await response(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """Build the public application; its lifespan opens the service and puts it into `app.state.service`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings) as service:
            app.state.service = service
            yield
            service.draining = True

    app = PublicApp(title="Cloneguard", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    problems.install(app)
    for routes in (predict.router, open_inference.router, health.router):
        app.include_router(routes)
    return app
