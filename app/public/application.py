"""`create_app(settings)`: the public port as one ASGI application. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import __version__
from app.public import health, open_inference, predict, problems
from app.service import open_service
from app.settings import Settings

DESCRIPTION = """Ask what is on an image. Three ways to send it to `/predict`, and the Open Inference Protocol v2 under `/v2`.

Errors are `application/problem+json` (RFC 9457). On 503, wait as long as `Retry-After` says."""


def create_app(settings: Settings) -> FastAPI:
    """Build the public application; its lifespan opens the service and puts it into `app.state.service`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings) as service:
            app.state.service = service
            yield
            service.draining = True

    app = FastAPI(title="Cloneguard", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    problems.install(app)
    for routes in (predict.router, open_inference.router, health.router):
        app.include_router(routes)
    return app
