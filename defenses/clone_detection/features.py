"""The three features of a pair of recognizers (Mori, Nakamura, Nitta, Babaguchi), each with its 95% interval.

f is the original, h the suspect; f_L and f_S are label and confidence.

    alpha  share of u near f's boundary with h_L(u) = f_L(u)           large for a clone: the same boundary
    beta   share of random u with f_S(u) - h_S(u) > 0, strictly        small for a clone of labels: it is over-confident
    gamma  mean of (f_S(u) - h_S(u))^2 near f's boundary               small for a clone of confidences: it copies them

The paper calls gamma a variance; its formula is the mean square, without centring, and so is ours.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]  # ships no types

from defenses.clone_detection.recognizer import Answers, Recognizer
from defenses.clone_detection.sampling import Sample

NAMES = ("alpha", "beta", "gamma")
LABELS_ONLY = ("alpha",)  # what is left without confidences
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
    steps: int
    original_queries: int
    suspect_queries: int
    message: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Which features there are."""
        return LABELS_ONLY if self.beta is None else NAMES

    def vector(self) -> NDArray[np.float64]:
        """The features' values, in the order of `names`."""
        return np.array([one.value for one in (self.alpha, self.beta, self.gamma) if one is not None])


def measure(suspect: Recognizer, *, near: Sample, far: Sample) -> Features:
    """Ask the suspect once about every input of both samples, and compare: `near` the original's boundary, `far` at random.

    A suspect that tells no confidences is asked about the near sample only: without them the far one says nothing.
    """
    close = suspect(near.inputs)
    told = (near.original, far.original, close)
    return compare(close, suspect(far.inputs) if all(one.confidences is not None for one in told) else None, near=near, far=far)


def compare(close: Answers, wide: Answers | None, *, near: Sample, far: Sample) -> Features:
    """The features from a suspect's answers to both samples: `close` to the near one, `wide` to the far one, if it was asked."""
    alpha = Interval.of_share(close.labels == near.original.labels)
    queries = near.queries + far.queries
    sides = {"original": (near.original, far.original), "suspect": (close,) if wide is None else (close, wide)}
    silent = [f"the {side}" for side, answers in sides.items() if any(one.confidences is None for one in answers)]
    if silent:
        message = f"{' and '.join(silent)} told labels only: beta and gamma need confidences, so the verdict rests on alpha alone"
        return Features(alpha, None, None, near.steps, queries, len(close.labels) + (0 if wide is None else len(wide.labels)), message)
    assert wide is not None, "with confidences the far sample says something"
    return Features(
        alpha=alpha,
        beta=Interval.of_share(_ahead(far.original, wide) > 0),
        gamma=Interval.of_mean(_ahead(near.original, close) ** 2),
        steps=near.steps,
        original_queries=queries,
        suspect_queries=len(close.labels) + len(wide.labels),
    )


def _ahead(original: Answers, suspect: Answers) -> NDArray[np.float64]:
    """f_S - h_S, (n,)."""
    assert original.confidences is not None and suspect.confidences is not None
    return original.confidences - suspect.confidences
