"""Near-duplicate lookup: queries that show the same picture belong to one neighbourhood, and get one answer (Kinbara et al.)."""

from collections.abc import Sequence

import numpy as np

from defenses.fingerprint import EmbeddingCode, perceptual_hashes
from defenses.stores.protocol import QueryStore, Sighting
from defenses.vocabulary import Case, Finding, Floats, Mode, Neighbourhood

CLOSE = 0.1  # of the best score


class NearDuplicateLookup:
    """Join every query to a neighbourhood: find the oldest founder near it, or found one.

    Two channels: a 64-bit perceptual hash of the pixels, and a binary code of the embedding (`code` is None for a recognizer
    that was not calibrated: then the first channel works alone). The finding's score is the Hamming distance in bits, its label the
    channel, or "" for a founder. In shadow mode the neighbourhoods are recorded, but nothing follows from them.

    One neighbourhood, one answer: where the founder's best class is not far below the member's own, the two exchange places, so that
    a change too small to see does not flip a label. A confident answer stays as it is, and so does the answer of any other client
    than the founder: nobody moves a stranger's close call by founding a neighbourhood around his image.
    """

    def __init__(self, store: QueryStore, *, code: EmbeddingCode | None, mode: Mode) -> None:
        self._store, self._code, self._mode = store, code, mode

    async def __call__(self, case: Case) -> Case:
        """Ask the store once for the whole micro-batch."""
        perceptual = perceptual_hashes(np.stack([query.pixels for query in case.queries]))
        embedding = self._code(case.embedding) if self._code else np.zeros((len(case.queries), 0), dtype=np.uint8)
        sightings = [
            Sighting(
                digest=alone.id,
                perceptual=pixels.tobytes(),
                embedding=bits.tobytes(),
                flagged=alone.flagged,
                top_classes=alone.top_classes,
                client=query.client,
                time=query.received,
            )
            for query, alone, pixels, bits in zip(case.queries, case.founded(), perceptual, embedding, strict=True)
        ]
        matches = await self._store.find_or_found(sightings)
        joined = np.array([match.channel != "" for match in matches], dtype=np.bool_)
        finding = Finding(
            flagged=joined,
            score=np.array([match.distance for match in matches], dtype=np.float32),
            label=tuple(match.channel for match in matches),
            doubtful=joined,
            enforced=self._mode is Mode.ENFORCE,
        )
        records = tuple(match.record for match in matches)
        if self._mode is not Mode.ENFORCE:
            return case.with_finding("near_duplicates", finding, records=records)
        neighbourhoods = tuple(match.neighbourhood for match in matches)
        scores = _agreeing(case, neighbourhoods)
        return case.with_finding("near_duplicates", finding, records=records, neighbourhoods=neighbourhoods, scores=scores)


def _agreeing(case: Case, neighbourhoods: Sequence[Neighbourhood]) -> Floats:
    """Scores (n, m) in which the founder's best class is best wherever the founder himself asks and it was a close call."""
    own = np.array([query.client == n.founder for query, n in zip(case.queries, neighbourhoods, strict=True)])
    founders = np.array([n.top_classes[0] for n in neighbourhoods])
    best, every = case.scores.argmax(axis=1), np.arange(len(founders))
    rows = every[own & (case.scores[every, founders] >= CLOSE * case.scores[every, best])]
    agreeing = case.scores.copy()
    agreeing[rows, founders[rows]], agreeing[rows, best[rows]] = case.scores[rows, best[rows]], case.scores[rows, founders[rows]]
    return agreeing
