"""What a store must do. Backends keep this promise alike; one contract test runs on all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from defenses.vocabulary import NEW_CLIENT, ClientRecord, Neighbourhood

FORGETTING = 1_000  # queries of a client's record, where both of its counts are halved: what happened long ago counts less


class StoreError(Exception):
    """The store can't do what was asked: unreadable, full, of another format. Drivers' errors become this one at the edge."""


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A query as the store sees it: its fingerprint, and the facts it would found a neighbourhood with.

    `perceptual` is a 64-bit hash of the pixels (8 bytes), `embedding` a binary code of the embedding (2 bytes a band),
    or empty where the recognizer has none. `time` is seconds since the epoch.
    """

    digest: bytes
    perceptual: bytes
    embedding: bytes
    flagged: bool
    top_classes: tuple[int, int]
    client: str
    time: float


@dataclass(frozen=True, slots=True)
class Match:
    """Where a sighting belongs. `channel` says why: "digest", "perceptual", "embedding", or "" for a founder (distance 0).

    `record` is what the sighting's client had done before.
    """

    neighbourhood: Neighbourhood
    channel: str
    distance: int
    record: ClientRecord = NEW_CLIENT


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One answered query, before it is chained. `body` is canonical JSON; the counts feed the client's summary.

    An empty `client` means an event of the operator's: it is chained, and belongs to nobody's summary.
    """

    client: str
    time: float
    flagged: bool
    near_duplicate: bool
    altered: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A chained entry: `link` = HMAC-SHA256(audit key, previous link || body); the first previous link is 32 zero bytes."""

    sequence: int
    body: bytes
    link: bytes


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """What one client did so far; times are seconds since the epoch."""

    client: str
    queries: int
    flagged: int
    near_duplicates: int
    altered: int
    first_seen: float
    last_seen: float


class QueryStore(Protocol):
    """The service's memory of queries. One instance serves one model's index; every method may raise StoreError."""

    @property
    def degraded(self) -> bool:
        """Whether answers come from a local view, or records wait, because the place where they are kept is away."""
        ...

    async def find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        """Join every sighting to a neighbourhood, in order, atomically; written before it returns.

        The same pixel digest first, then the OLDEST founder within the radius on either channel (a tie goes to the
        perceptual one); if there is none the sighting founds one. A sighting sees those before it in the same call.
        Hit and miss write the same row in the same commit.

        The oldest neighbourhoods are forgotten when there are too many or they are too old, a bounded number a call; sightings that
        joined them are like new then.

        A founder, and a joiner of another client's neighbourhood, advances its client's record, which is this index's; both counts are
        halved when there are `FORGETTING` queries.
        """
        ...

    async def neighbourhoods(self) -> int:
        """How many neighbourhoods this model's index holds."""
        ...

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Chain entries onto the audit log and add them to their clients' summaries, in one commit."""
        ...

    async def audit(self, *, after: int = 0, limit: int = 100, newest: bool = False) -> list[AuditRecord]:
        """At most `limit` records with a sequence number above `after`: the oldest of them first, or the newest first."""
        ...

    async def audit_start(self) -> tuple[int, bytes]:
        """Sequence number and link of the record before the first that is kept: (0, 32 zero bytes) if none was cut off."""
        ...

    async def clients(self, *, limit: int = 100) -> list[ClientSummary]:
        """Summaries of the busiest clients, busiest first."""
        ...

    async def close(self) -> None:
        """Write what is left and let go of files and threads."""
        ...
