"""Near-duplicate lookup: queries that show the same picture belong to one neighbourhood, and get one answer (Kinbara et al.)."""

from collections.abc import Sequence

import numpy as np

from defenses.fingerprint import EmbeddingCode, perceptual_hashes
from defenses.stores.protocol import QueryStore, Sighting
from defenses.vocabulary import Case, Finding, Floats, Mode, Neighbourhood

CLOSE = 0.25  # of the best score; with it 99% of test images keep their label when recompressed at quality 60, without it 95%


class NearDuplicateLookup:
    """Join every query to a neighbourhood: find the oldest founder near it, or found one.

    Two channels: a 64-bit perceptual hash of the pixels, and a binary code of the embedding (`code` is None for a recognizer
    that was not calibrated: then the first channel works alone). The finding's score is the Hamming distance in bits, its label the
    channel, or "" for a founder. In shadow mode the neighbourhoods are recorded, but nothing follows from them.

    One neighbourhood, one answer: where the founder's best class is a close second for a member, the two exchange places, so that a
    change too small to see does not flip a label. A confident answer stays as it is, whoever founded.
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
        if self._mode is not Mode.ENFORCE:
            return case.with_finding("near_duplicates", finding)
        neighbourhoods = tuple(match.neighbourhood for match in matches)
        return case.with_finding("near_duplicates", finding, neighbourhoods=neighbourhoods, scores=_agreeing(case.scores, neighbourhoods))


def _agreeing(scores: Floats, neighbourhoods: Sequence[Neighbourhood]) -> Floats:
    """Scores (n, m) in which the founder's best class is best wherever it was a close second."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    founders = np.array([neighbourhood.top_classes[0] for neighbourhood in neighbourhoods])
    first, second = np.take_along_axis(scores, best, axis=1).T
    rows = np.flatnonzero((best[:, 1] == founders) & (second >= CLOSE * first))[:, None]
    agreeing = scores.copy()
    agreeing[rows, best[rows[:, 0], ::-1]] = scores[rows, best[rows[:, 0]]]
    return agreeing
