"""Which classes usually follow which: what an answer needs to be told as another class and still look like an honest answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax  # type: ignore[import-untyped]  # ships no types

from defenses.vocabulary import Floats

LEAST_IMAGES = 5  # of a class: quantiles of fewer say nothing
RANKED_BY = 0.9  # quantile: a class that is mostly far off and sometimes close, as a dog is beside a cat, is a close companion
PROFILED_BY = (0.1, 0.5, RANKED_BY)
PROFILED = 32  # closest companions that a class is compared by
SHARPNESS = 5.0  # a class at the mean distance is chosen e^-5 times as often as one at none
ANYBODY = 0.05  # share of the choices that are made among all other classes alike
ROUNDS = 300  # of the scaling: 0.1 s at 43 classes, some seconds at 1,000


@dataclass(frozen=True, slots=True, eq=False)
class Companions:
    """For each of m classes, in which order the others follow it, and which others can take its part.

    `orders` (m, m): row c is c, then the other classes, the closest first. `weights` (m, m): row c has the probability that each other
    class is told where c is the best one; zero for c itself, positive for all others.
    """

    orders: NDArray[np.int32]
    weights: Floats

    @classmethod
    def fit(cls, logits: Floats) -> Self:
        """Learn from the recognizer's answers (n, m) to its own kind of images.

        Two classes take each other's part the oftener, the less their answers differ: in how confident they are, and in how close each
        companion comes. The weights are scaled so that every class is told as often as it is meant. A class that is hardly ever the
        best one gets the order of all answers together, and the mean class's part.
        """
        scores = log_softmax(logits.astype(np.float64), axis=1)
        m = scores.shape[1]
        best = scores.argmax(axis=1)
        counts = np.bincount(best, minlength=m)
        known = counts >= LEAST_IMAGES
        everywhere = np.quantile(scores, RANKED_BY, axis=0)
        orders, profiles = np.empty((m, m), np.int32), np.full((m, min(m, PROFILED) * len(PROFILED_BY)), np.nan)
        for c in range(m):
            spread = np.quantile(scores[best == c], PROFILED_BY, axis=0) if known[c] else None
            closeness = everywhere.copy() if spread is None else spread[-1].copy()
            closeness[c] = np.inf
            orders[c] = np.argsort(-closeness, kind="stable")
            if spread is not None:
                profiles[c] = spread[:, orders[c, :PROFILED]].ravel()
        profiles[~known] = profiles[known].mean(axis=0) if known.any() else 0
        return cls(orders, _weights(profiles, frequencies=(counts + 1) / (counts + 1).sum()))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `arrays` gave. Raises KeyError where something is missing."""
        return cls(arrays["orders"], arrays["weights"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a calibration stores."""
        return {"orders": self.orders, "weights": self.weights}


@cache
def plain_companions(classes: int) -> Companions:
    """Those of a recognizer that was never calibrated: every class is followed by the others in the order of their ids, all alike."""
    places = np.arange(classes, dtype=np.int32)
    own = places[:, None]
    orders = np.where(places == 0, own, places - (places <= own)).astype(np.int32)
    return Companions(orders, ((places != own) / (classes - 1)).astype(np.float32))


def _weights(profiles: NDArray[np.float64], *, frequencies: NDArray[np.float64]) -> Floats:
    m = len(profiles)
    others = ~np.eye(m, dtype=np.bool_)
    distances = np.stack([np.abs(profiles - profile).mean(axis=1) for profile in profiles])
    mean = distances[others].mean()
    plan = np.exp(-SHARPNESS * distances / mean) * others if mean > 0 else others.astype(np.float64)
    frequencies = np.minimum(frequencies, 1 - frequencies)  # a class of more than half the answers finds too few others to be told for
    frequencies = frequencies / frequencies.sum()
    factors = np.ones(m)
    for _ in range(ROUNDS):  # a symmetric plan whose rows and columns both sum to the frequencies (Sinkhorn and Knopp)
        factors = np.sqrt(factors * frequencies / (plan @ factors))
    chosen = plan * factors
    chosen /= chosen.sum(axis=1, keepdims=True)
    return np.asarray((1 - ANYBODY) * chosen + ANYBODY * others / (m - 1), dtype=np.float32)
