"""Buying answers: images become PNG files, the ledger says which are known, the oracles are asked for the rest."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from attacker_client.costs import Counts, Tally
from attacker_client.encoding import encode
from attacker_client.errors import BadImage, Garbled, OracleError, Refused, Unreachable
from attacker_client.group_commit import GroupCommit
from attacker_client.ledger import Ledger, Purpose
from attacker_client.oracle import Oracle
from attacker_client.transfer_set import Images, TransferSet
from attacker_client.wire import OracleAnswer

_BLOCK = 16  # images encoded and looked up at a time: about a millisecond, while the others are under way
_GARBLED_IN_A_ROW = 10
_BAD_IN_A_ROW = 100  # bad images cost no budget: without an end, an endpoint that takes none would be asked about the whole pool


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `buy`: how far it has come."""

    images: Images
    identities: NDArray[np.int64]
    digests: list[bytes] = field(default_factory=list)  # of the rows that are paid for, in order
    answers: dict[bytes, OracleAnswer | None] = field(default_factory=dict)  # None: no usable answer
    end: OracleError | None = None


class LedgerBuyer:
    """The endpoint as an attack sees it: asked through one oracle an identity, with a ledger and a budget.

    What counts against the budget is each different image whose answer for `purpose` this process has handed out, also when an earlier
    process bought it: so a resumed campaign sees the same `left` at the same step, and takes the same decisions. An image bought for
    another purpose is free, and one without an answer isn't counted. `concurrency` bounds the queries under way over all identities.
    `on_answer` is told how much of the budget is spent, with every answer.
    """

    def __init__(
        self,
        oracles: Sequence[Oracle],
        ledger: Ledger,
        *,
        budget: int,
        purpose: Purpose,
        concurrency: int = 32,
        names: Sequence[str] | None = None,
        on_answer: Callable[[int], None] | None = None,
    ) -> None:
        assert oracles and concurrency >= 1 and budget >= 0
        self._oracles = oracles
        self._ledger = ledger
        self._budget = budget
        self._purpose: Purpose = purpose
        self._concurrency = concurrency
        self._names = [str(row) for row in range(len(oracles))] if names is None else names
        assert len(self._names) == len(oracles)
        self._on_answer = on_answer
        self._paid: set[bytes] = set()  # the images that count against the budget
        self._under_way = 0
        self._spent_elsewhere = False
        self._garbled: list[bytes] = []  # in a row, up to now
        self._bad = 0  # the same
        self._denied: set[int] = set()  # identities that the endpoint refused
        self._classes = 0
        self._turn = asyncio.Lock()
        self._commits = GroupCommit(ledger)

    @property
    def left(self) -> int:
        """How many more images the budget pays for."""
        return 0 if self._spent_elsewhere else self._budget - len(self._paid)

    @property
    def identities(self) -> int:
        """As how many clients the endpoint can be asked."""
        return len(self._oracles)

    @property
    def counts(self) -> Counts:
        """What this purpose has cost so far."""
        cost = self._ledger.tally(self._purpose)
        return Counts(
            queries_answered=cost.answered,
            queries_sent=cost.sent,
            bytes_sent=cost.bytes_sent,
            bytes_received=cost.bytes_received,
            refused=cost.refused,
            bad_images=self._ledger.bad_images(self._purpose),
            seconds_waiting=cost.seconds_waiting,
            uncertain=self._ledger.uncertain(self._purpose) - self._under_way,
        )

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
        """Buy answers for images (n, S, S, 3): row i of the result answers image i; fewer rows mean that the budget is spent.

        `identities` (n,) say who asks about each, 0..identities-1; by default 0. An image that gets no usable answer has weight 0. Raises
        Refused or Unreachable where the endpoint won't go on, Garbled after ten such answers in a row and BadImage after a hundred such,
        once all queries under way have come back and are kept. An identity that is refused asks no more: the next one does, in its place
        too, and the purchase is Refused when there is none left.
        """
        n = len(images)
        who = np.zeros(n, np.int64) if identities is None else identities
        assert who.shape == (n,) and (n == 0 or 0 <= who.min() <= who.max() < self.identities), who
        async with self._turn:
            call = _Call(images, who)
            if len(self._denied) == self.identities:
                self._denied.clear()  # whoever buys again after that may have waited
            while True:
                queries = self._queries(call)
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(self._concurrency, n)):
                            group.create_task(self._ask(call, queries))
                finally:
                    self._ledger.commit()
                if call.end is not None:
                    raise call.end
                # A bad image costs nothing, so its place in the budget may be free again.
                if len(call.digests) == n or not self._has_room():
                    told = TransferSet.told(images, [call.answers[digest] for digest in call.digests], classes=self._classes)
                    # Not the ledger's: a resumed campaign must see as many classes at this step as the first one saw.
                    self._classes = told.classes
                    return told

    def _queries(self, call: _Call) -> Iterator[tuple[int, bytes, bytes]]:
        """Row, digest and PNG of each image that must be asked about, in order, until the budget is spent."""
        for start in range(len(call.digests), len(call.images), _BLOCK):
            files = encode(call.images[start : start + _BLOCK])
            digests = [sha256(file).digest() for file in files]
            known = self._ledger.known(digests)
            for row, (digest, file) in enumerate(zip(digests, files, strict=True), start=start):
                new = digest not in known and digest not in call.answers
                if new and not self._has_room():
                    return
                if digest in known:
                    purpose, answer = known[digest]
                    if purpose == self._purpose and answer is not None and digest not in self._paid:
                        if self.left <= self._under_way:
                            return
                        self._pay(digest)
                    call.answers[digest] = answer
                call.digests.append(digest)
                if new:
                    call.answers[digest] = None
                    yield row, digest, file

    def _has_room(self) -> bool:
        """Whether the budget pays for one more query."""
        if self._ledger.bought(self._purpose) >= self._budget:
            # All is spent, even if an earlier process spent it on images that this one has not asked for.
            self._spent_elsewhere = True
        return self.left > self._under_way and self._budget - self._ledger.bought(self._purpose) > self._under_way

    def _pay(self, digest: bytes) -> None:
        self._paid.add(digest)
        if self._on_answer is not None:
            self._on_answer(len(self._paid))

    async def _ask(self, call: _Call, queries: Iterator[tuple[int, bytes, bytes]]) -> None:
        """Take the next query, as long as there is one and nothing has ended the call."""
        while call.end is None and (query := next(queries, None)) is not None:
            row, digest, file = query
            self._under_way += 1
            try:
                while call.end is None and not await self._settle(call, digest, file, identity=int(call.identities[row])):
                    pass
            finally:
                self._under_way -= 1

    async def _settle(self, call: _Call, digest: bytes, file: bytes, *, identity: int) -> bool:
        """Ask about an image once, as the identity or the next one that isn't denied; False where another one must be tried."""
        asker = next(each for each in (*range(identity, self.identities), *range(identity)) if each not in self._denied)
        self._ledger.intend(digest, purpose=self._purpose, identity=self._names[asker])
        await self._commits.done()
        cost = Tally()
        try:
            answer = await self._oracles[asker].ask(file, media_type="image/png", tally=cost)
        except OracleError as error:
            end = self._note(digest, error, cost)
            if isinstance(end, Refused):
                self._denied.add(asker)
                if len(self._denied) < self.identities:
                    return False
            call.end = end or call.end
        else:
            self._give_up_garbled()
            self._bad = 0
            self._ledger.answered(digest, answer, cost, purpose=self._purpose)
            call.answers[digest] = answer
            self._pay(digest)
        self._commits.soon()
        return True

    def _note(self, digest: bytes, error: OracleError, cost: Tally) -> OracleError | None:
        """Keep how a query failed; returns the error if the next one would fare no better."""
        match error:
            case BadImage():
                self._ledger.failed(digest, "bad", cost)
                self._bad += 1
                return error if self._bad >= _BAD_IN_A_ROW else None
            case Refused():
                self._ledger.failed(digest, "refused", cost)
            case Unreachable():
                self._ledger.failed(digest, "intent", cost)
            case Garbled():
                self._ledger.failed(digest, "garbled", cost)
                self._garbled.append(digest)
                return error if len(self._garbled) >= _GARBLED_IN_A_ROW else None
        return error

    def _give_up_garbled(self) -> None:
        """An answer that can be read shows that the garbled ones before it were about their images, not about the endpoint."""
        for digest in self._garbled:
            self._ledger.failed(digest, "bad", Tally(sent=1))
        self._garbled.clear()
