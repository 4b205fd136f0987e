"""Five ways to say how far a query lies from the recognizer's own distribution, behind one tiny interface.

A score is high where the query is foreign, always: thresholds need to know no more. Scorers are fitted offline, live
as plain arrays in calibration.npz, and score in numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from defenses.out_of_distribution.logistic import fit_logistic_regression
from defenses.vocabulary import Floats

Arrays = Mapping[str, NDArray[Any]]
FLOOR = 1e-3  # of the mean variance
ScorerName = Literal["logistic", "msp", "energy", "mahalanobis", "knn"]


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What the recognizer gave for n images: logits (n, m), features (n, d)."""

    logits: Floats
    features: Floats


class Scorer(Protocol):
    """Scores a batch; higher is more out-of-distribution."""

    def __call__(self, *, logits: Floats, features: Floats) -> Floats:
        """Score n queries: logits (n, m) and features (n, d) to (n,) float32."""
        ...

    @classmethod
    def fit(cls, inside: Outputs, classes: NDArray[np.int64], *, outside: Outputs | None = None) -> Self:
        """Learn from in-distribution outputs with class ids (n,), and foreign ones where the scorer needs them."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything it learned."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Undo `arrays`."""
        ...


class _Learned:
    """A scorer whose fields are exactly what it learned."""

    __slots__ = ()

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {field.name: getattr(self, field.name) for field in fields(cast(Any, self))}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls(**{field.name: arrays[field.name] for field in fields(cast(Any, cls))})


@dataclass(frozen=True, slots=True, eq=False)
class LogisticRegression(_Learned):
    """The log-odds of "foreign" under a linear classifier on standardised features (Atli et al., 2020).

    score = w . (x - mean) / scale + b, kept as one weight vector. The only scorer that needs foreign images to learn from.
    """

    weights: Floats
    bias: Floats

    @classmethod
    def fit(cls, inside: Outputs, classes: NDArray[np.int64], *, outside: Outputs | None = None) -> Self:  # noqa: ARG003 - classless
        if outside is None:
            raise ValueError("the logistic filter learns the difference to out-of-distribution images: give some, or choose another scorer")
        weights, bias = fit_logistic_regression(inside.features, outside.features)
        return cls(weights, bias)

    def __call__(self, *, logits: Floats, features: Floats) -> Floats:  # noqa: ARG002 - one interface for all
        return np.asarray(features @ self.weights + self.bias, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class MaximumSoftmaxProbability(_Learned):
    """1 minus the top class's probability (Hendrycks and Gimpel, 2017); nothing to learn."""

    @classmethod
    def fit(cls, inside: Outputs, classes: NDArray[np.int64], *, outside: Outputs | None = None) -> Self:  # noqa: ARG003
        return cls()

    def __call__(self, *, logits: Floats, features: Floats) -> Floats:  # noqa: ARG002
        # 1 - p_max = 1 - 1/total is computed as (total - 1)/total, which keeps its digits where the recognizer is very sure
        others = np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1) - 1
        return np.asarray(others / (others + 1), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Energy(_Learned):
    """-logsumexp of the logits, temperature 1 (Liu et al., 2020); nothing to learn."""

    @classmethod
    def fit(cls, inside: Outputs, classes: NDArray[np.int64], *, outside: Outputs | None = None) -> Self:  # noqa: ARG003
        return cls()

    def __call__(self, *, logits: Floats, features: Floats) -> Floats:  # noqa: ARG002
        top = logits.max(axis=1, keepdims=True)
        return np.asarray(-top[:, 0] - np.log(np.exp(logits - top).sum(axis=1)), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Mahalanobis(_Learned):
    """Squared distance to the nearest class mean under one covariance for all classes (Lee et al., 2018).

    min over c of (x - mean_c)' S^-1 (x - mean_c). S^-1 is kept as a whitening matrix, so that scoring is one product. Features are
    divided by their spread first, so that the floor under S means the same for parts of different scales. Of more than 512 features
    the 512 directions of the greatest spread count: the matrix travels in the bundle.
    """

    centre: Floats
    whitening: Floats
    means: Floats  # of the classes, whitened (m, r)

    RANK_CAP = 512

    @classmethod
    def fit(cls, inside: Outputs, classes: NDArray[np.int64], *, outside: Outputs | None = None) -> Self:  # noqa: ARG003
        scale = _spread(inside.features)
        features = inside.features.astype(np.float64) / scale
        ids = np.unique(classes)
        means = np.stack([features[classes == i].mean(axis=0) for i in ids])
        residuals = features - means[np.searchsorted(ids, classes)]
        spread, axes = np.linalg.eigh(residuals.T @ residuals / len(residuals))
        # directions that never moved, dead or more than there are images, would drown all others without a floor
        axes, kept = axes[:, -cls.RANK_CAP :], spread[-cls.RANK_CAP :]  # eigenvalues ascend
        whitening = axes / np.sqrt(np.maximum(kept, FLOOR * max(float(spread.mean()), 1e-12)))
        centre = features.mean(axis=0)
        folded = whitening / scale[:, None]
        return cls((centre * scale).astype(np.float32), folded.astype(np.float32), ((means - centre) @ whitening).astype(np.float32))

    def __call__(self, *, logits: Floats, features: Floats) -> Floats:  # noqa: ARG002
        white = (features - self.centre) @ self.whitening
        squared = (white**2).sum(axis=1, keepdims=True) - 2 * white @ self.means.T + (self.means**2).sum(axis=1)
        return np.asarray(squared.min(axis=1), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class NearestNeighbours(_Learned):
    """Distance to the k-th nearest training image on the unit sphere (Sun et al., 2022), k = 10.

    Features are divided by their spread first: they come from parts of different scales. The bank is capped: it travels in the
    bundle, and every query is compared with all of it.
    """

    bank: NDArray[np.float16]
    scale: Floats

    NEIGHBOURS = 10
    BANK_CAP = 1_000

    @classmethod
    def fit(cls, inside: Outputs, classes: NDArray[np.int64], *, outside: Outputs | None = None) -> Self:  # noqa: ARG003
        chosen = np.linspace(0, len(inside.features) - 1, min(cls.BANK_CAP, len(inside.features))).astype(np.int64)
        scale = _spread(inside.features)
        return cls(_unit(inside.features[chosen] / scale).astype(np.float16), scale)

    def __call__(self, *, logits: Floats, features: Floats) -> Floats:  # noqa: ARG002
        cosines = _unit(features / self.scale) @ self.bank.astype(np.float32).T
        nearest = min(self.NEIGHBOURS, cosines.shape[1])
        kth = np.partition(cosines, -nearest, axis=1)[:, -nearest]
        return np.asarray(np.sqrt(np.maximum(2 - 2 * kth, 0)), dtype=np.float32)


def _spread(features: Floats) -> Floats:
    """Standard deviations (d,); a feature that hardly moved must not become a loud one."""
    spread = features.std(axis=0)
    return np.asarray(np.maximum(spread, 1e-2 * spread.mean() + 1e-12), dtype=np.float32)


def _unit(features: Floats) -> Floats:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), dtype=np.float32)


SCORERS: dict[ScorerName, type[Scorer]] = {
    "logistic": LogisticRegression,
    "msp": MaximumSoftmaxProbability,
    "energy": Energy,
    "mahalanobis": Mahalanobis,
    "knn": NearestNeighbours,
}
