"""Intentional misrecognition: some answers are wrong on purpose, always the same ones, so that asking again teaches nothing.

Whether and how is HMAC(secret, model, neighbourhood): no coin is tossed, so replicas and restarts say the same
(Kinbara et al., PRMU2019-94; the keyed choice is ours). How an answer is altered stands in `relabelling.py`, who is watermarked in
`watermark.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from defenses.keyed import purpose_key, share
from defenses.relabelling import Relabelling
from defenses.suspicion import Suspicion
from defenses.vocabulary import NEW_CLIENT, Case, Finding, Mode, Neighbourhood
from defenses.watermark import Watermark


class IntentionalMisrecognition:
    """Alter the answers of chosen neighbourhoods.

    Reasons, the first that holds: `ood` (the founder was flagged, and this query is at least doubtful itself, so that nobody can
    spoil an honest image by founding a flagged neighbourhood around it), `rate` (a flat keyed share of neighbourhoods), `suspicion` (a
    keyed share of what suspicious clients found, told to the founder, and to others as far as they are suspicious themselves),
    `watermark` (a keyed share that also depends on who founded it). `rate` is a share in 0..1. The work is the same whether or not anything
    is altered.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        model: str,
        mode: Mode,
        rate: float,
        watermark_mode: Mode,
        watermark: Watermark,
        relabelling: Relabelling,
        suspicion_mode: Mode = Mode.OFF,
        suspicion: Suspicion | None = None,
    ) -> None:
        self._rate_key, self._suspicion_key = purpose_key(secret, "rate", model), purpose_key(secret, "suspicion", model)
        self._suspicion_mode, self._suspicion = suspicion_mode, suspicion or Suspicion()
        self._mode, self._rate, self._relabelling = mode, rate, relabelling
        self._watermark_mode, self._watermark = watermark_mode, watermark

    async def __call__(self, case: Case) -> Case:
        """Choose a reason for every query, and relabel where a reason is enforced."""
        neighbourhoods = case.neighbourhoods or case.founded()
        ood = case.findings.get("ood")
        doubtful = ood.doubtful.tolist() if ood and ood.enforced else [False] * len(neighbourhoods)
        flat = tuple(self._reason(n, doubtful=d) for n, d in zip(neighbourhoods, doubtful, strict=True))
        suspected = self._suspected(case, neighbourhoods)
        marked = tuple("watermark" if self._watermark.marks(n) else "" for n in neighbourhoods)
        # A record of flags that nothing follows from is no reason either.
        suspicion_mode = self._suspicion_mode if (ood and ood.enforced) or self._suspicion_mode is Mode.OFF else Mode.SHADOW
        found = {
            "misrecognition": (flat, self._mode),
            "suspicion": (suspected, suspicion_mode),
            "watermark": (marked, self._watermark_mode),
        }
        for name, (why, mode) in found.items():
            if mode is not Mode.OFF:
                case = case.with_finding(name, _finding(why, mode))
        enforced = [why for why, mode in found.values() if mode is Mode.ENFORCE]
        reasons = tuple(next((why[row] for why in enforced if why[row]), "") for row in range(len(neighbourhoods)))
        altered = np.array([bool(reason) for reason in reasons], dtype=np.bool_)
        relabelled = self._relabelling(case.scores, neighbourhoods)
        return replace(case, reasons=reasons, scores=np.where(altered[:, None], relabelled, case.scores))

    def _reason(self, neighbourhood: Neighbourhood, *, doubtful: bool) -> str:
        chosen = share(self._rate_key, neighbourhood.id) < self._rate  # computed for every query, as everything here is
        if neighbourhood.flagged and doubtful:
            return "ood"
        return "rate" if chosen else ""

    def _suspected(self, case: Case, neighbourhoods: Sequence[Neighbourhood]) -> tuple[str, ...]:
        records = case.records or (NEW_CLIENT,) * len(neighbourhoods)
        found = []
        for query, record, n in zip(case.queries, records, neighbourhoods, strict=True):
            rate = self._suspicion.rate(n.record, classes=case.scores.shape[1])
            if query.client != n.founder:
                rate = min(rate, self._suspicion.rate(record, classes=case.scores.shape[1]))
            found.append("suspicion" if share(self._suspicion_key, n.id) < rate else "")
        return tuple(found)


def _finding(reasons: tuple[str, ...], mode: Mode) -> Finding:
    flagged = np.array([bool(reason) for reason in reasons], dtype=np.bool_)
    return Finding(flagged=flagged, score=flagged.astype(np.float32), label=reasons, doubtful=flagged, enforced=mode is Mode.ENFORCE)
