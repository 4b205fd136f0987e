"""What a batch of audit entries adds to their clients' summaries."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from defenses.stores.protocol import AuditEntry, ClientSummary

_client = attrgetter("client")


def summaries(entries: Sequence[AuditEntry]) -> list[ClientSummary]:
    """One summary a client of these entries alone; operators' events (client "") belong to nobody."""
    queries = sorted((entry for entry in entries if entry.client), key=_client)
    return [_summary(client, list(own)) for client, own in groupby(queries, key=_client)]


def _summary(client: str, entries: Sequence[AuditEntry]) -> ClientSummary:
    times = [entry.time for entry in entries]
    flagged, near_duplicates, altered = (sum(getattr(e, name) for e in entries) for name in ("flagged", "near_duplicate", "altered"))
    return ClientSummary(client, len(entries), flagged, near_duplicates, altered, min(times), max(times))
