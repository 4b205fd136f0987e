"""Charge a request to its client's quota, and leave the headers that tell so for whatever answer it gets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import HTTPConnection

from app.errors import OverloadedError
from app.service import Service


@asynccontextmanager
async def charged(service: Service, request: HTTPConnection, *, client: str, queries: int) -> AsyncIterator[None]:
    """Count queries while they are answered; what is shed costs nothing. Raises QuotaExceededError."""
    charge = await service.quotas.charge(client, queries)
    request.state.headers = charge.headers
    try:
        yield
    except OverloadedError:
        await service.quotas.give_back(charge)
        raise


async def require_quota(service: Service, request: HTTPConnection, *, client: str) -> None:
    """Refuse a client that has nothing left, where how much is asked for is not known yet. Raises QuotaExceededError."""
    request.state.headers = await service.quotas.look(client)
