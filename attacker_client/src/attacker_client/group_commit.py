"""Many queries, one transaction: what two commits a query cost would keep the endpoint waiting."""

import asyncio

from attacker_client.errors import LedgerError
from attacker_client.ledger import Ledger


class GroupCommit:
    """Commit a ledger at the end of a turn of the event loop, for all who wrote in it.

    Answers that come together and the intents of the queries that follow them share a transaction. An intent is committed before its query
    is sent, because `done` is waited for; an answer is no later than the next turn, and before a purchase gives it out.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiters: list[asyncio.Future[None]] = []
        self._is_due = False

    def soon(self) -> None:
        """Have it committed."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._commit)

    async def done(self) -> None:
        """Wait until it is committed. Raises LedgerError."""
        self.soon()
        waiter = asyncio.get_running_loop().create_future()  # one each: to cancel a shared one would cancel all
        self._waiters.append(waiter)
        await waiter

    def _commit(self) -> None:
        self._is_due = False
        waiters, self._waiters = self._waiters, []
        failure: LedgerError | None = None
        try:
            self._ledger.commit()
        except LedgerError as error:
            failure = error  # also raised by the commit that ends the purchase
        for waiter in waiters:
            if not waiter.done():
                if failure is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(failure)
