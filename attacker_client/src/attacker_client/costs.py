"""What queries cost: of one query, and of all for a purpose."""

from dataclasses import dataclass
from typing import Self


@dataclass(slots=True)
class Tally:
    """What queries cost. Bytes are those of bodies; `refused` counts answers 429 and 503, `seconds_waiting` the waits after them."""

    sent: int = 0
    answered: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    refused: int = 0
    seconds_waiting: float = 0.0

    def add(self, other: Self) -> None:
        """Count what the other counted, too."""
        self.sent += other.sent
        self.answered += other.answered
        self.bytes_sent += other.bytes_sent
        self.bytes_received += other.bytes_received
        self.refused += other.refused
        self.seconds_waiting += other.seconds_waiting


@dataclass(frozen=True, slots=True)
class Counts:
    """What a purpose cost, over all processes of the campaign; bytes are those of bodies.

    `refused` counts answers 429 and 503; `uncertain` queries that were under way when the connection or the process ended: the endpoint may
    have counted them.
    """

    queries_answered: int
    queries_sent: int
    bytes_sent: int
    bytes_received: int
    refused: int
    bad_images: int
    seconds_waiting: float
    uncertain: int
