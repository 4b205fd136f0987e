"""How an altered answer is made: a keyed exchange of classes in the query's own score vector (the relabellings are ours; the
shuffling is Atli et al.'s)."""

import hmac
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from defenses.companions import Companions, plain_companions
from defenses.keyed import numbers, purpose_key
from defenses.suspicion import Suspicion
from defenses.vocabulary import Floats, Neighbourhood


class Alteration(StrEnum):
    """How an altered vector is made from the query's own: always a relabelling, so that scores vary as honest ones do."""

    DERANGEMENT = "derangement"  # a keyed permutation of the classes that leaves none in place
    UNIFORM = "uniform"  # any keyed permutation, the honest one included
    KEEP_TOP = "keep_top"  # the best class stays, all others are deranged
    SECOND_CLASS = "second_class"  # the founder's two best classes change places
    WRONG_CLASS = "wrong_class"  # the founder's best class changes places with a keyed other one
    IMPERSONATION = "impersonation"  # a keyed class takes the founder's best one's part, and its companions those of that one's


class Relabelling:
    """Exchange the classes of every score vector as its neighbourhood's key says.

    `companions` is for impersonation: which classes follow which where they are the best one. The k-th companion's score goes to the
    k-th companion of the wrong class, so that a cat told as a bird has beside it what birds have. Without it every class is followed by
    the others in the order of their ids, and every other class is told as often; so it is with what a suspicious client founds, or the
    wrong class would say something about the right one.
    """

    def __init__(
        self, *, secret: bytes, model: str, alteration: Alteration, companions: Companions | None = None, suspicion: Suspicion | None = None
    ) -> None:
        self._key = purpose_key(secret, "alteration", model)
        self._alteration, self._companions, self._suspicion = alteration, companions, suspicion or Suspicion()

    def __call__(self, scores: Floats, neighbourhoods: Sequence[Neighbourhood]) -> Floats:
        """Relabel every row of `scores` (n, m); same shape, same values per row."""
        return self._relabelled(self._key, scores, neighbourhoods)

    def told(self, neighbourhood: Neighbourhood, *, classes: int) -> int:
        """The class that is told where the founder's best one is meant."""
        return self._told(self._key, neighbourhood, classes)

    def controls(self, neighbourhood: Neighbourhood, *, classes: int, count: int) -> tuple[int, ...]:
        """What `count` other keys would have told: drawn exactly as `told` is, and by nothing that anybody was told."""
        keys = (hmac.digest(self._key, b"control:%d" % number, "sha256") for number in range(count))
        return tuple(self._told(key, neighbourhood, classes) for key in keys)

    def _told(self, key: bytes, neighbourhood: Neighbourhood, classes: int) -> int:
        meant = np.zeros((1, classes), dtype=np.float32)
        first, second = neighbourhood.top_classes
        meant[0, second], meant[0, first] = 0.5, 1.0
        return int(self._relabelled(key, meant, [neighbourhood]).argmax())

    def _relabelled(self, key: bytes, scores: Floats, neighbourhoods: Sequence[Neighbourhood]) -> Floats:
        rows = np.arange(len(scores))[:, None]
        founders = np.array([n.top_classes for n in neighbourhoods])
        keys = numbers(key, [n.id for n in neighbourhoods], scores.shape[1])
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


def _chosen(keys: NDArray[np.uint64], weights: Floats) -> NDArray[np.int64]:
    """One column a row, keyed: each as likely as `weights` (n, classes) says, never one that weighs nothing.

    The first of exponential clocks that run at the weights' speeds.
    """
    clocks = -np.log1p(keys.astype(np.float64)) + 64 * np.log(2)
    return np.asarray(np.divide(clocks, weights, out=np.full(weights.shape, np.inf), where=weights > 0).argmin(axis=1))
