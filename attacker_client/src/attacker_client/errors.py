"""What can go wrong when an endpoint is asked, and when what was bought is kept.

OracleError
├── Refused       the endpoint won't answer us: 401, 403, or 429 and 503 until the attempts were used up
├── BadImage      it won't take this image: 413, 415, 422
├── Unreachable   no answer came: no connection, or none that lived long enough, or 408, 502 and 504, until the attempts were used up
├── Garbled       an answer came that is not the wire format: another status (a 500 until the attempts were used up), or an unreadable body
└── Unanswered    of many images none got an answer, each for a reason of its own

LedgerError       the ledger of what was bought belongs to another campaign, or can't be written
"""


class OracleError(Exception):
    """No answer was bought; the subclass says whose fault it is."""


class Refused(OracleError):  # noqa: N818 - reads as what happened
    """The endpoint won't answer us now: the next image would fare no better.

    `retry_after` is the wait in seconds it asked for last, or None if it named none.
    """

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class BadImage(OracleError):  # noqa: N818 - reads as what happened
    """The endpoint won't take this image: the next one may do."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(OracleError):  # noqa: N818 - reads as what happened
    """No answer came: nobody listens, or the connection broke, timed out or ended at a proxy on every attempt."""


class Garbled(OracleError):  # noqa: N818 - reads as what happened
    """Something answered that doesn't speak the wire format."""


class Unanswered(OracleError):  # noqa: N818 - reads as what happened
    """None of the images got an answer that counts, so there is nothing to go on with."""


class LedgerError(Exception):
    """The ledger can't be used for this campaign: it belongs to another one, another process writes it, or the disk takes no more."""
