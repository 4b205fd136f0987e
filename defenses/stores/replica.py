"""A replica's copy of the log of founders, and the local view that answers from it while Redis is away."""

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from defenses.stores.deciding import after, decide
from defenses.stores.founders import AT_ONCE, CHANNELS, Founders, Kin
from defenses.stores.packing import NO_CHECK, Founder, pack, unpack
from defenses.stores.protocol import Match, Sighting, StoreError
from defenses.vocabulary import NEW_CLIENT, ClientRecord, Neighbourhood

REMEMBERED_CLIENTS = 10_000  # whose records the local view knows
MOST_PROVISIONAL = 100_000  # pictures or clients seen in one outage; then the local view starts over
_FOUND = struct.Struct(">HdBHH")  # client, founder's sequence number, channel, distance, siblings
_SIBLING = struct.Struct(">HBH")  # place in the call, channel, distance
_CHANNEL_NAMES = ("", *CHANNELS, "digest")  # as the script numbers them


@dataclass(frozen=True, slots=True)
class Question:
    """What the script is asked: how far the copy reaches, who the clients are, and what it found about each sighting."""

    epoch: bytes
    last: int
    check: bytes
    clients: list[str]
    sightings: list[bytes]


class Replica:
    """Founders up to the sequence number `last` of the index that Redis calls `epoch`; `check` proves that they are its own.

    Not thread-safe: every method runs in the store's one thread.
    """

    def __init__(self, *, perceptual_radius: int, embedding_radius: int) -> None:
        self._radii = {"perceptual_radius": perceptual_radius, "embedding_radius": embedding_radius}
        self._clients: OrderedDict[str, ClientRecord] = OrderedDict()
        self.start_over(b"")

    def start_over(self, epoch: bytes) -> None:
        """Drop the copy: Redis has another index than the one it was made of."""
        self.epoch, self.last, self.check = epoch, 0, NO_CHECK
        self._founders = Founders(**self._radii)
        self._log: list[bytes] = []  # records as Redis keeps them, from the sequence number `_log_start` on
        self._log_start = 1
        self.forget_provisional()

    def __len__(self) -> int:
        return len(self._founders)

    def ask(self, sightings: Sequence[Sighting]) -> Question:
        """Search the copy, on hit and miss alike. Raises StoreError for codes of another width."""
        stored = self._founders.kin(sightings)
        siblings = self._founders.siblings(sightings, [at for at, kin in enumerate(stored) if not kin])
        clients = list(dict.fromkeys(sighting.client for sighting in sightings))
        numbers = {client: number for number, client in enumerate(clients, start=1)}
        found = []
        for at, (sighting, kin) in enumerate(zip(sightings, stored, strict=True)):
            near = siblings.get(at, [])
            sequence, kind, distance = kin or (0, -1, 0)
            head = _FOUND.pack(numbers[sighting.client], sequence, kind + 1, distance, len(near))
            tail = b"".join(_SIBLING.pack(earlier + 1, kind + 1, bits) for earlier, kind, bits in near)
            found.append(head + tail + pack(sighting))
        return Question(self.epoch, self.last, self.check, clients, found)

    def add(self, epoch: bytes, start: int, records: Sequence[bytes | None], *, check: bytes, first: int) -> None:
        """Take over the founders `start`, `start` + 1, ...; `check` is the last one's. What is damaged is left out."""
        if epoch != self.epoch:
            return
        self.forget(first)
        if start + len(records) - 1 <= self.last:
            return
        known = max(0, self.last + 1 - start)
        if start > self.last + 1:  # all before `start` are gone
            self._log, self._log_start = [], start
        self._log += [record or b"" for record in records[known:]]
        self._index([(sequence, founder) for sequence, record in enumerate(records[known:], start + known) if (founder := unpack(record))])
        self.last, self.check = start + len(records) - 1, check

    def _index(self, founders: Sequence[tuple[int, Founder]]) -> None:
        codes = ([f.perceptual for _, f in founders], [f.embedding for _, f in founders], [f.time for _, f in founders])
        try:
            self._founders.add([sequence for sequence, _ in founders], *codes)
        except StoreError:  # a code of another width: nothing that this index founded
            if len(founders) > 1:
                for one in founders:
                    self._index([one])

    def forget(self, first: int) -> None:
        """Treat founders below `first` as gone."""
        self._founders.forget(first)
        gone = self._founders.first - self._log_start
        if gone > AT_ONCE:
            del self._log[:gone]
            self._log_start += gone

    def answer(self, sightings: Sequence[Sighting], told: Sequence[tuple[int, int, int, int, int, bytes]]) -> list[Match]:
        """The script's matches: (sequence number, channel, distance, the client's queries and flagged ones before, record)."""
        if self._seen:  # Redis decides again: what was founded without it never was
            self.forget_provisional()
        matches = []
        for sighting, (_, kind, distance, queries, flagged, record) in zip(sightings, told, strict=True):
            founder = unpack(record)
            assert founder, "the script gives sound records only"
            match = Match(founder.neighbourhood, _CHANNEL_NAMES[kind], distance, ClientRecord(queries, flagged))
            matches.append(match)
            self._remember(sighting.client, after(match, sighting))
        return matches

    def answer_alone(self, sightings: Sequence[Sighting]) -> list[Match]:
        """Find or found without Redis: what is founded now is provisional, and identical pixels still agree."""
        if max(len(self._seen), len(self._local_records)) > MOST_PROVISIONAL:
            self.forget_provisional()
        stored = self._founders.kin(sightings)
        meanwhile = self._overlay.kin(sightings)
        near: list[Kin | None] = [old or ((-new[0], *new[1:]) if new else None) for old, new in zip(stored, meanwhile, strict=True)]
        records = {sighting.client: self._local_record(sighting.client) for sighting in sightings}
        matches = decide(
            sightings,
            stored=near,
            siblings=self._overlay.siblings(sightings, [at for at, kin in enumerate(near) if not kin]),
            seen=self._seen,
            records=records,
            founder=self._home,
        )
        for sighting, match in zip(sightings, matches, strict=True):
            if not match.channel:
                self._provisional.append(match.neighbourhood)
                self._overlay.add([len(self._provisional)], [sighting.perceptual], [sighting.embedding], [sighting.time])
        self._local_records.update(records)
        return matches

    def forget_provisional(self) -> None:
        """Drop what was founded without Redis."""
        self._overlay = Founders(**self._radii)
        self._provisional: list[Neighbourhood] = []
        self._seen: dict[bytes, Neighbourhood] = {}
        self._local_records: dict[str, ClientRecord] = {}

    def _home(self, sequence: int) -> Neighbourhood:
        if sequence < 0:
            return self._provisional[-sequence - 1]
        founder = unpack(self._log[sequence - self._log_start])
        assert founder, "what is searched was unpacked before"
        return founder.neighbourhood

    def _local_record(self, client: str) -> ClientRecord:
        return self._local_records.get(client) or self._clients.get(client, NEW_CLIENT)

    def _remember(self, client: str, record: ClientRecord) -> None:
        self._clients[client] = record
        self._clients.move_to_end(client)
        if len(self._clients) > REMEMBERED_CLIENTS:
            self._clients.popitem(last=False)
