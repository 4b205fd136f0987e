"""How suspicious a client's record is, and which share of what it founds is altered for it."""

from dataclasses import dataclass

from defenses.vocabulary import ClientRecord


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A client most of whose queries are out of distribution is after something else than answers.

    The share of flagged queries, counted as if `patience` unflagged ones had come first, is suspicious from `tolerated` on and beyond doubt
    at `certain`. Honest clients are flagged at the filter's benign rate, more often where their images are poor, and up to a third of the
    time where they show the right things as another camera sees them; a thief with images of other things two times in three.
    """

    tolerated: float = 0.35
    certain: float = 0.55
    patience: int = 50

    def __post_init__(self) -> None:
        assert 0 <= self.tolerated < self.certain <= 1 and self.patience > 0, self

    def __call__(self, record: ClientRecord) -> float:
        """How suspicious, 0..1."""
        return min(max((self._share(record) - self.tolerated) / (self.certain - self.tolerated), 0.0), 1.0)

    def rate(self, record: ClientRecord, *, classes: int) -> float:
        """The share of the client's unflagged founders that is altered, 0..1.

        Of all that a client founds beyond doubt, 1 - 1/classes is wrong, flagged ones included: then the told class is as likely to be the
        right one as any other, and an answer says nothing, if the wrong one is any class alike. More would say what a label is not.
        """
        flagged = self._share(record)
        return self(record) * max(1 - 1 / classes - flagged, 0.0) / max(1 - flagged, 1e-9)

    def _share(self, record: ClientRecord) -> float:
        return record.flagged / (record.queries + self.patience)
