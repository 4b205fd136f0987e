"""Intentional misrecognition: some answers are wrong on purpose, always the same ones, so that asking again teaches nothing.

Whether and how is HMAC(secret, model, neighbourhood): no coin is tossed, so replicas and restarts say the same
(Kinbara et al., PRMU2019-94; the keyed choice and the relabellings are ours, the shuffling is Atli et al.'s, the watermark's rule
DAWN's, Szyller et al. 2021).
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from defenses.companions import Companions, plain_companions
from defenses.suspicion import Suspicion
from defenses.vocabulary import NEW_CLIENT, Case, Finding, Floats, Mode, Neighbourhood


class Alteration(StrEnum):
    """How an altered vector is made from the query's own: always a relabelling, so that scores vary as honest ones do."""

    DERANGEMENT = "derangement"  # a keyed permutation of the classes that leaves none in place
    UNIFORM = "uniform"  # any keyed permutation, the honest one included
    KEEP_TOP = "keep_top"  # the best class stays, all others are deranged
    SECOND_CLASS = "second_class"  # the founder's two best classes change places
    WRONG_CLASS = "wrong_class"  # the founder's best class changes places with a keyed other one
    IMPERSONATION = "impersonation"  # a keyed class takes the founder's best one's part, and its companions those of that one's


class IntentionalMisrecognition:
    """Alter the answers of chosen neighbourhoods.

    Reasons, the first that holds: `ood` (the founder was flagged, and this query is at least doubtful itself, so that nobody can
    spoil an honest image by founding a flagged neighbourhood around it), `rate` (a flat keyed share of neighbourhoods), `suspicion` (a
    keyed share of what suspicious clients found, told to the founder, and to others as far as they are suspicious themselves),
    `watermark` (a keyed share that also depends on who founded it). `rate` and `watermark_rate` are shares in 0..1. The work is the same
    whether or not anything is altered.

    `companions` is for impersonation: which classes follow which where they are the best one. The k-th companion's score goes to the
    k-th companion of the wrong class, so that a cat told as a bird has beside it what birds have. Without it every class is followed by
    the others in the order of their ids, and every other class is told as often; so it is with what a suspicious client founds, or the
    wrong class would say something about the right one.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        model: str,
        mode: Mode,
        rate: float,
        watermark_mode: Mode,
        watermark_rate: float,
        alteration: Alteration,
        companions: Companions | None = None,
        suspicion_mode: Mode = Mode.OFF,
        suspicion: Suspicion | None = None,
    ) -> None:
        self._rate_key, self._watermark_key, self._alteration_key, self._suspicion_key = (
            hmac.digest(secret, f"{purpose}:{model}".encode(), "sha256") for purpose in ("rate", "watermark", "alteration", "suspicion")
        )
        self._suspicion_mode, self._suspicion = suspicion_mode, suspicion or Suspicion()
        self._mode, self._rate, self._alteration = mode, rate, alteration
        self._watermark_mode, self._watermark_rate = watermark_mode, watermark_rate
        self._companions = companions

    async def __call__(self, case: Case) -> Case:
        """Choose a reason for every query, and relabel where a reason is enforced."""
        neighbourhoods = case.neighbourhoods or case.founded()
        ood = case.findings.get("ood")
        doubtful = ood.doubtful.tolist() if ood and ood.enforced else [False] * len(neighbourhoods)
        flat = tuple(self._reason(n, doubtful=d) for n, d in zip(neighbourhoods, doubtful, strict=True))
        suspected = self._suspected(case, neighbourhoods)
        marked = tuple("watermark" if self._is_marked(n) else "" for n in neighbourhoods)
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
        relabelled = self.relabel(case.scores, neighbourhoods)
        return replace(case, reasons=reasons, scores=np.where(altered[:, None], relabelled, case.scores))

    def relabel(self, scores: Floats, neighbourhoods: Sequence[Neighbourhood]) -> Floats:
        """Exchange the classes of every row of `scores` (n, m) as its neighbourhood's key says; same shape, same values per row."""
        rows = np.arange(len(scores))[:, None]
        founders = np.array([n.top_classes for n in neighbourhoods])
        keys = self._keys(neighbourhoods, scores.shape[1])
        altered = scores.copy()
        match self._alteration:
            case Alteration.UNIFORM:
                altered[rows, np.argsort(keys, axis=1)] = scores
            case Alteration.DERANGEMENT:
                cycle = np.argsort(keys, axis=1)
                altered[rows, np.roll(cycle, -1, axis=1)] = scores[rows, cycle]
            case Alteration.KEEP_TOP:
                keys[rows, scores.argmax(axis=1, keepdims=True)] = np.iinfo(keys.dtype).max
                cycle = np.argsort(keys, axis=1)[:, :-1]
                altered[rows, np.roll(cycle, -1, axis=1)] = scores[rows, cycle]
            case Alteration.SECOND_CLASS:
                altered[rows, founders[:, ::-1]] = scores[rows, founders]
            case Alteration.WRONG_CLASS:
                keys[rows, founders[:, :1]] = np.iinfo(keys.dtype).max
                pair = np.column_stack((founders[:, 0], keys.argmin(axis=1)))
                altered[rows, pair[:, ::-1]] = scores[rows, pair]
            case Alteration.IMPERSONATION:
                companions = self._companions or plain_companions(scores.shape[1])
                best = founders[:, 0]
                suspected = np.array([self._suspicion(n.record) > 0 for n in neighbourhoods])
                weights = np.where(suspected[:, None], np.float32(1), companions.weights[best])
                weights[rows[:, 0], best] = 0
                wrong = _chosen(keys, weights)
                altered[rows, companions.orders[wrong]] = scores[rows, companions.orders[best]]
        return altered

    def _reason(self, neighbourhood: Neighbourhood, *, doubtful: bool) -> str:
        chosen = _share(self._rate_key, neighbourhood.id) < self._rate  # computed for every query, as everything here is
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
            found.append("suspicion" if _share(self._suspicion_key, n.id) < rate else "")
        return tuple(found)

    def _is_marked(self, neighbourhood: Neighbourhood) -> bool:
        return _share(self._watermark_key, neighbourhood.id + neighbourhood.founder.encode()) < self._watermark_rate

    def _keys(self, neighbourhoods: Sequence[Neighbourhood], classes: int) -> NDArray[np.uint64]:
        """One keyed 64-bit number a class and neighbourhood, (n, classes): their order is the permutation.

        SHAKE-256 and a sort, not a numpy generator, whose streams may change between releases.
        """
        stream = b"".join(hashlib.shake_256(self._alteration_key + n.id).digest(8 * classes) for n in neighbourhoods)
        return np.frombuffer(bytearray(stream), dtype="<u8").reshape(len(neighbourhoods), classes)


def _share(key: bytes, message: bytes) -> float:
    """A number in [0, 1) that only the key's owner can predict."""
    return int.from_bytes(hmac.digest(key, message, "sha256")[:8], "big") / 2**64


def _chosen(keys: NDArray[np.uint64], weights: Floats) -> NDArray[np.int64]:
    """One column a row, keyed: each as likely as `weights` (n, classes) says, never one that weighs nothing.

    The first of exponential clocks that run at the weights' speeds.
    """
    clocks = -np.log1p(keys.astype(np.float64)) + 64 * np.log(2)
    return np.asarray(np.divide(clocks, weights, out=np.full(weights.shape, np.inf), where=weights > 0).argmin(axis=1))


def _finding(reasons: tuple[str, ...], mode: Mode) -> Finding:
    flagged = np.array([bool(reason) for reason in reasons], dtype=np.bool_)
    return Finding(flagged=flagged, score=flagged.astype(np.float32), label=reasons, doubtful=flagged, enforced=mode is Mode.ENFORCE)
