"""The words that every part of the defence speaks: Query, Case, Finding, Neighbourhood, Answer, Step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bits = NDArray[np.uint8]
Flags = NDArray[np.bool_]


class Mode(StrEnum):
    """What a defence does with what it finds."""

    OFF = "off"
    SHADOW = "shadow"  # counted, not applied
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One image that somebody asks about.

    `pixels` is uint8 (H, W, 3) as the recognizer sees it, `digest` its SHA-256, `received` seconds since the epoch.
    """

    id: str
    client: str
    pixels: Bits
    digest: bytes
    received: float


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """What a client did up to some moment: how many queries, and how many of them were flagged as out of distribution.

    Copies of pictures that it founded a neighbourhood with itself are not counted again, and old queries count less.
    """

    queries: int = 0
    flagged: int = 0


NEW_CLIENT = ClientRecord()


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The facts that all near-duplicates share: they are those of the founder, and never change.

    `id` is the founder's pixel digest, `top_classes` its two best classes before any defence, best first, `record` what its client had
    done before.
    """

    id: bytes
    founder: str
    flagged: bool
    top_classes: tuple[int, int]
    record: ClientRecord = NEW_CLIENT


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What one defence found in the n queries of a case.

    `flagged` (n,) is its decision, `score` (n,) what the decision rests on (a defence's own unit), `label` one word of a closed
    set a query (a channel, a reason, or ""), `doubtful` (n,) a superset of `flagged` under a laxer threshold.
    """

    flagged: Flags
    score: Floats
    label: tuple[str, ...]
    doubtful: Flags
    enforced: bool


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What leaves: the best k classes of each query, best first; scores (n, k) or None where only labels are told."""

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A micro-batch of n queries on its way: arrays and findings, first axis n everywhere.

    `logits` and `scores` are (n, classes), `features` (n, d), `embedding` (n, e). A defence changes `scores` and adds its finding
    under its settings section's name; `records` are what the queries' clients had done before, where a store was asked; `reasons` says
    why each answer was altered ("" where it was not); the last defence sets `answer`.
    """

    queries: tuple[Query, ...]
    logits: Floats
    features: Floats
    embedding: Floats
    scores: Floats
    neighbourhoods: tuple[Neighbourhood, ...] = ()
    records: tuple[ClientRecord, ...] = ()
    reasons: tuple[str, ...] = ()
    findings: Mapping[str, Finding] = field(default_factory=lambda: MappingProxyType({}))
    answer: Answer | None = None

    def founded(self) -> tuple[Neighbourhood, ...]:
        """The neighbourhoods that the queries found where each stands alone."""
        top = np.argsort(-self.logits, axis=1, kind="stable")[:, :2].tolist()
        ood = self.findings.get("ood")
        flags = ood.flagged.tolist() if ood else [False] * len(self.queries)
        return tuple(
            Neighbourhood(id=query.digest, founder=query.client, flagged=flag, top_classes=(first, second))
            for query, flag, (first, second) in zip(self.queries, flags, top, strict=True)
        )

    def rows(self, rows: Sequence[int]) -> Self:
        """These queries alone, as the model handed them on: before any defence found something."""
        assert not self.findings and self.answer is None
        at = np.asarray(rows)
        return replace(
            self,
            queries=tuple(self.queries[row] for row in rows),
            logits=self.logits[at],
            features=self.features[at],
            embedding=self.embedding[at],
            scores=self.scores[at],
        )

    def with_finding(self, name: str, finding: Finding, **changes: object) -> Self:
        """A new case that knows one more finding, and `changes`."""
        return replace(self, findings=MappingProxyType({**self.findings, name: finding}), **changes)  # type: ignore[arg-type]


class Step(Protocol):
    """One thing that happens to every query: options in `__init__`, work in `__call__`.

    A step that raises stops the request; it never lets the query pass by.
    """

    async def __call__(self, case: Case) -> Case: ...
