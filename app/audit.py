"""The audit step: one record for every answered query, written before the answer leaves."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from defenses.stores.protocol import AuditEntry, QueryStore, StoreError
from defenses.vocabulary import Case


class Audit:
    """Record who asked what and when, what the defences found, and a digest of what was answered.

    Pixels and scores are not kept: a digest proves an answer without repeating it. Where the store can't write, `on_dropped` is told
    how many records are missing, and their queries get an error: an answer without a record never leaves.
    """

    def __init__(self, store: QueryStore, *, on_dropped: Callable[[int], None]) -> None:
        self._store, self._on_dropped = store, on_dropped

    async def __call__(self, case: Case) -> Case:
        """Append the whole micro-batch in one commit."""
        entries = [self._entry(case, row) for row in range(len(case.queries))]
        try:
            await self._store.append_audit(entries)
        except StoreError:
            self._on_dropped(len(entries))
            raise
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
            "time": datetime.fromtimestamp(query.received, UTC).isoformat(timespec="milliseconds"),
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
