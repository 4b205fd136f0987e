"""The admin port where something is wrong: damaged records, a store that is away, strange requests. The rest is end to end."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from app.admin.application import create_admin
from app.settings import Settings
from defenses.stores.protocol import AuditRecord, StoreError

pytestmark = pytest.mark.anyio

TOKEN = "t" * 32


class Store:
    """Holds what a test puts into it; `error` is what it raises instead."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.error: StoreError | None = None

    async def audit(self, **_: Any) -> list[AuditRecord]:
        if self.error:
            raise self.error
        return self.records


@pytest.fixture
def store() -> Store:
    """An empty one."""
    return Store()


@pytest.fixture
async def admin(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """An operator at the admin port of a service that has only this store."""
    service: Any = SimpleNamespace(settings=Settings(), store=store, admin_token=TOKEN)
    transport = httpx.ASGITransport(create_admin(service))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost:8001", headers={"authorization": f"Bearer {TOKEN}"}
    ) as client:
        yield client


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff"])
async def test_a_damaged_record_hides_no_other(admin: httpx.AsyncClient, store: Store, body: bytes) -> None:
    """Whoever looks for what was tampered with sees it, and the records around it; no record can pass for another."""
    store.records = [AuditRecord(1, b'{"client":"anna","sequence":9}', b"a"), AuditRecord(2, body, b"b")]
    answer = await admin.get("/admin/v1/audit")
    assert answer.json() == {
        "records": [{"client": "anna", "sequence": 1, "link": "61"}, {"unreadable": body.hex(), "sequence": 2, "link": "62"}],
        "next": 2,
    }


async def test_a_store_that_is_away_is_503(admin: httpx.AsyncClient, store: Store) -> None:
    """As for queries: the operator's request was right."""
    store.error = StoreError("Redis: no answer in 0.05 s")
    answer = await admin.get("/admin/v1/audit")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Redis: no answer in 0.05 s"


@pytest.mark.parametrize("after", ["-1", "9007199254740992", "x"])
async def test_a_sequence_number_that_no_log_reaches_is_422(admin: httpx.AsyncClient, after: str) -> None:
    """Neither SQLite nor Redis would take it."""
    assert (await admin.get("/admin/v1/audit", params={"after": after})).status_code == 422


@pytest.mark.parametrize("origin", ["http://[", "null", "", "localhost:8001", "http://localhost:8001.evil.example"])
async def test_an_origin_that_is_none_is_foreign(admin: httpx.AsyncClient, origin: str) -> None:
    """What can't be read as the page's own address is refused like another's."""
    assert (await admin.post("/admin/v1/policy/rollback", headers={"origin": origin})).status_code == 403
