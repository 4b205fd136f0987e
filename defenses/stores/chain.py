"""The audit log's chain: whoever lacks the key can't change, drop, insert or reorder a record unnoticed."""

import hmac
from collections.abc import Iterable

from defenses.stores.protocol import AuditRecord

GENESIS = bytes(32)  # what comes before the first record


def link(key: bytes, previous: bytes, body: bytes) -> bytes:
    """HMAC-SHA256(key, previous || body), 32 bytes; `previous` is always 32 bytes, so that the two can't be confused."""
    assert len(previous) == len(GENESIS)
    return hmac.digest(key, previous + body, "sha256")


def verify(key: bytes, records: Iterable[AuditRecord], previous: bytes = GENESIS, *, after: int = 0) -> int | None:
    """The sequence number of the first record that is missing or not what was written, or None if all is well.

    To check a log page by page, hand over the last good record's link as `previous` and its sequence number as `after`.
    A log whose newest records were cut off is a shorter valid log: only a link that was kept elsewhere shows that.
    """
    for expected, record in enumerate(records, start=after + 1):
        if record.sequence != expected or not hmac.compare_digest(record.link, link(key, previous, record.body)):
            return expected
        previous = record.link
    return None
