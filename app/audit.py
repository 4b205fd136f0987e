"""The audit step: one record for every answered query, written before the answer leaves."""

import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from defenses.stores.protocol import AuditEntry, QueryStore, StoreError
from defenses.vocabulary import Case


async def record_event(store: QueryStore, event: Mapping[str, Any]) -> None:
    """Append what an operator did to the same chain: `event` says what kind it is, and must carry no secret. Raises StoreError.

    The record's time is the event's own where it has one, in seconds or as text; it belongs to no client.
    """
    now = time.time()
    told = event.get("time", now)
    body = {**event, "time": _iso(told) if isinstance(told, float) else told}
    entry = AuditEntry(
        client="", time=now, flagged=False, near_duplicate=False, altered=False, body=orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    )
    await store.append_audit([entry])


class Audit:
    """Record who asked what and when, what the defences found, and a digest of what was answered.

    Pixels and scores are not kept: a digest proves an answer without repeating it. Where the store can't write, `on_dropped` is told
    how many records are missing, and their queries get an error: an answer without a record never leaves, unless records are not
    `required`. A record that waits in memory for Redis is one; when there is no room for more the store can't write.
    """

    def __init__(
        self, store: QueryStore, *, on_dropped: Callable[[int], None], on_recorded: Callable[[int], None] = lambda _: None,
        required: bool = True,
    ) -> None:  # fmt: skip
        self._store, self._on_dropped, self._on_recorded, self._required = store, on_dropped, on_recorded, required

    async def __call__(self, case: Case) -> Case:
        """Append the whole micro-batch in one commit."""
        entries = [self._entry(case, row) for row in range(len(case.queries))]
        try:
            await self._store.append_audit(entries)
        except StoreError:
            self._on_dropped(len(entries))
            if self._required:
                raise
        else:
            self._on_recorded(len(entries))
        return case

    def _entry(self, case: Case, row: int) -> AuditEntry:
        assert case.answer is not None
        query = case.queries[row]
        found = {name: finding for name, finding in case.findings.items() if finding.flagged[row]}
        altered = bool(case.reasons and case.reasons[row])
        answer = hashlib.sha256(case.answer.class_ids[row].tobytes())
        if case.answer.scores is not None:
            answer.update(case.answer.scores[row].tobytes())
        body = {
            "time": _iso(query.received),
            "client": query.client,
            "request_id": query.id,
            "query": query.digest.hex(),
            "neighbourhood": case.neighbourhoods[row].id.hex() if case.neighbourhoods else query.digest.hex(),
            "findings": {
                name: {"score": round(float(finding.score[row]), 4), "label": finding.label[row], "enforced": finding.enforced}
                for name, finding in found.items()
            },
            "action": "misrecognized" if altered else "answered",
            "answer": answer.hexdigest(),
        }
        return AuditEntry(
            client=query.client,
            time=query.received,
            flagged="ood" in found,
            near_duplicate="near_duplicates" in found,
            altered=altered,
            body=orjson.dumps(body, option=orjson.OPT_SORT_KEYS),
        )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
