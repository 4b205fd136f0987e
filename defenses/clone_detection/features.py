"""The features of a pair of recognizers, each with its 95% interval: three of Mori, Nakamura, Nitta and Babaguchi, and one of ours.

f is the original, h the suspect; f_L and f_S are label and confidence.

    alpha  share of u near f's boundary with h_L(u) = f_L(u)           large for a clone: the same boundary
    beta   share of random u with f_S(u) - h_S(u) > 0, strictly        small for a clone of labels: it is over-confident
    gamma  mean of (f_S(u) - h_S(u))^2 near f's boundary               small for a clone of confidences: it copies them
    delta  share of random u with h_L(u) = f_L(u)                      large for a clone: it learned from just such answers

The paper calls gamma a variance; its formula is the mean square, without centring, and so is ours. Delta is not the paper's. The random u
are unrelated images, that neither was trained for: independents name them as it happens, and a clone was trained on such answers of the
original. They are asked about for beta anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]  # ships no types

from defenses.clone_detection.recognizer import Answers
from defenses.clone_detection.sampling import Sample

NAMES = ("alpha", "beta", "gamma")  # the paper's
LABELS_ONLY = ("alpha",)  # what is left of them without confidences
ALL = (*NAMES, "delta")
ALL_LABELS_ONLY = (*LABELS_ONLY, "delta")
RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95% interval, over the inputs that were drawn: other originals and suspects vary more."""

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, hits: NDArray[np.bool_]) -> Self:
        """A share of n inputs with Wilson's score interval (Wilson, 1927)."""
        found = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="wilson")
        return cls(float(hits.mean()), float(found.low), float(found.high))

    @classmethod
    def of_mean(cls, values: NDArray[np.float64]) -> Self:
        """The mean of n values with the bootstrap's percentile interval: squares are too skewed for a normal one."""
        random = np.random.default_rng(0)  # the same inputs have the same interval
        means = values[random.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        return cls(float(values.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Features:
    """A pair's features; `beta` and `gamma` are None where a recognizer tells labels only, and `message` says so.

    `steps` are the bisection's of the near sample, `original_queries` and `suspect_queries` what the pair cost each side.
    """

    alpha: Interval
    beta: Interval | None
    gamma: Interval | None
    delta: Interval
    steps: int
    original_queries: int
    suspect_queries: int
    message: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Which features there are."""
        return ALL_LABELS_ONLY if self.beta is None else ALL

    def vector(self, names: Sequence[str] = NAMES) -> NDArray[np.float64]:
        """The values of the features `names`, in their order; of those that `self.names` has."""
        assert set(names) <= set(self.names), (names, self.names)
        return np.array([getattr(self, name).value for name in names])


def compare(close: Answers, wide: Answers, *, near: Sample, far: Sample) -> Features:
    """The features from a suspect's answers to both samples: `close` to the near one, `wide` to the far one."""
    sides = {"original": (near.original, far.original), "suspect": (close, wide)}
    silent = [f"the {side}" for side, answers in sides.items() if any(one.confidences is None for one in answers)]
    message = f"{' and '.join(silent)} told labels only: beta and gamma need confidences, so the verdict rests on alpha and delta"
    return Features(
        alpha=Interval.of_share(close.labels == near.original.labels),
        beta=None if silent else Interval.of_share(_ahead(far.original, wide) > 0),
        gamma=None if silent else Interval.of_mean(_ahead(near.original, close) ** 2),
        delta=Interval.of_share(wide.labels == far.original.labels),
        steps=near.steps,
        original_queries=near.queries + far.queries,
        suspect_queries=len(close.labels) + len(wide.labels),
        message=message if silent else "",
    )


def _ahead(original: Answers, suspect: Answers) -> NDArray[np.float64]:
    """f_S - h_S, (n,)."""
    assert original.confidences is not None and suspect.confidences is not None
    return original.confidences - suspect.confidences
