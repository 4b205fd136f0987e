"""A candidate: a policy on trial beside the live one, which leaves no trace but in counts."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from app.settings import Settings
from defenses.stores.protocol import Match, QueryStore, Sighting
from defenses.vocabulary import NEW_CLIENT, Case, Neighbourhood, Step

log = logging.getLogger(__name__)

_MATCHES: ContextVar[Sequence[Match]] = ContextVar("matches", default=())  # of the live lookup, in the micro-batch at hand


class RememberedLookups:
    """The store as the live policy's lookup sees it: what it found is remembered for the rest of the micro-batch."""

    def __init__(self, store: QueryStore) -> None:
        self._store = store

    async def find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        """See QueryStore."""
        matches = await self._store.find_or_found(sightings)
        _MATCHES.set(matches)
        return matches


class RepeatedLookups:
    """The store as a candidate's lookup sees it: what the live lookup found, for nothing may be founded twice.

    Where the live policy founded a neighbourhood, or looked nothing up, the candidate founds its own, with its own facts, on paper.
    """

    async def find_or_found(self, sightings: Sequence[Sighting]) -> list[Match]:
        """See QueryStore."""
        matches = _MATCHES.get()
        assert not matches or len(matches) == len(sightings), (len(matches), len(sightings))
        if not matches:
            return [_founded(sighting, Match(_alone(sighting), "", 0)) for sighting in sightings]
        return [match if match.channel else _founded(sighting, match) for sighting, match in zip(sightings, matches, strict=True)]


def as_store(lookups: RememberedLookups | RepeatedLookups) -> QueryStore:
    """What a lookup step takes; it asks a store for nothing else than `find_or_found`."""
    return cast(QueryStore, lookups)


@dataclass(slots=True, eq=False)
class Candidate:
    """The policy of version `version` on trial: its steps but for the audit, and what became of it so far, on this server."""

    version: int
    settings: Settings
    steps: tuple[Step, ...]
    outcomes: Counter[str] = field(default_factory=Counter)
    failure: str | None = None

    async def compare(self, case: Case, live: Case) -> Counter[str]:
        """Answer a micro-batch as the candidate would, and count how that differs from what was answered.

        A step that fails switches the candidate off, and is said once.
        """
        outcomes: Counter[str] = Counter()
        try:
            for step in self.steps:
                case = await step(case)
            outcomes.update(_differences(live, case))
        except Exception as error:
            if self.failure is None:
                log.exception("policy version %d failed on trial and is switched off; the live policy is not concerned", self.version)
            self.failure = f"{type(error).__name__}: {error}"
        self.outcomes += outcomes
        return outcomes


def _differences(live: Case, candidate: Case) -> list[str]:
    mine, other = live.answer, candidate.answer
    assert mine is not None and other is not None
    outcomes = []
    for row in range(len(live.queries)):
        if mine.class_ids[row, 0] != other.class_ids[row, 0]:
            outcomes.append("other_label")
        elif np.array_equal(mine.class_ids[row], other.class_ids[row]) and (
            mine.scores is other.scores is None
            or (mine.scores is not None and other.scores is not None and np.array_equal(mine.scores[row], other.scores[row]))
        ):
            outcomes.append("same")
        else:
            outcomes.append("other_scores")
    return outcomes


def _alone(sighting: Sighting) -> Neighbourhood:
    return Neighbourhood(sighting.digest, sighting.client, sighting.flagged, sighting.top_classes, NEW_CLIENT)


def _founded(sighting: Sighting, match: Match) -> Match:
    return replace(match, neighbourhood=replace(match.neighbourhood, flagged=sighting.flagged, top_classes=sighting.top_classes))
