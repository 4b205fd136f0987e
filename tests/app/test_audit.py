"""The audit step records every answer, or none leaves."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from app.audit import Audit
from defenses.stores import open_store
from defenses.stores.protocol import AuditEntry, StoreError
from defenses.truncation import OutputTruncation
from defenses.vocabulary import Case, Mode
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio


class FullStore:
    """A store that can't write."""

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        raise StoreError(f"disk full, {len(entries)} entries")


async def answered(n: int) -> Case:
    return await OutputTruncation(mode=Mode.ENFORCE, top_k=3, decimals=2, labels_only=False)(case_of(n))


async def test_one_record_a_query_without_pixels_or_scores(tmp_path: Path) -> None:
    """Who, when, which digest, what was found and done."""
    store = await open_store(f"sqlite:///{tmp_path}/q.db", index="m", audit_key=b"k" * 32)
    case = await Audit(store, on_dropped=lambda _: None)(await answered(5))
    records = [orjson.loads(record.body) for record in await store.audit()]
    assert [record["request_id"] for record in records] == [query.id for query in case.queries]
    assert [record["query"] for record in records] == [query.digest.hex() for query in case.queries]
    assert {record["action"] for record in records} == {"answered"}
    assert len({record["answer"] for record in records}) == 5
    assert set(records[0]) == {"time", "client", "request_id", "query", "neighbourhood", "findings", "action", "answer"}
    await store.close()


async def test_a_record_that_cannot_be_written_stops_the_answer() -> None:
    """The dropped records are counted, and the error goes on."""

    dropped: list[int] = []
    with pytest.raises(StoreError):
        await Audit(FullStore(), on_dropped=dropped.append)(await answered(3))  # type: ignore[arg-type]
    assert dropped == [3]


async def test_where_records_are_not_required_the_answer_leaves_and_the_loss_is_counted() -> None:
    """Never silent: what was not recorded is counted as dropped, and not as recorded."""

    dropped: list[int] = []
    recorded: list[int] = []
    case = await answered(3)
    step = Audit(FullStore(), on_dropped=dropped.append, on_recorded=recorded.append, required=False)  # type: ignore[arg-type]
    assert await step(case) is case
    assert (dropped, recorded) == ([3], [])
