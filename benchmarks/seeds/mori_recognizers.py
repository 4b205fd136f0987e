"""The recognizers of Mori et al. on points in [-1, 1]^2: originals of four kinds, and their clones by strategy (a) or (b).

An original learns from 30,000 random images' points, a clone from the original's answers to 30,000 points uniform in the square. The
confidence is the best class's probability. (a) is a classifier of labels alone; (b) has a regressor of the
original's confidences beside it.

scikit-learn's SVM has no probabilities: Platt's sigmoids, fitted on three-fold held-out decision values, make them, and the best
of these is label and confidence. Its MLP stops before 200 epochs once the training loss has not fallen by 1e-4 for ten.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import SVC

from defenses.clone_detection.recognizer import Answers, Recognizer

Kind = Literal["SVM", "k-NN", "RF", "MLP"]
Strategy = Literal["a", "b"]
KINDS: tuple[Kind, ...] = ("SVM", "k-NN", "RF", "MLP")
CLONE_KINDS: tuple[Kind, ...] = ("k-NN", "RF", "MLP")
STRATEGIES: tuple[Strategy, ...] = ("a", "b")
LEARNED = 30_000  # points

LAYERS, EPOCHS = (100,) * 10, 200
CLASSIFIERS: Mapping[Kind, Callable[[int], Any]] = {
    "SVM": lambda _: CalibratedClassifierCV(SVC(kernel="rbf", C=1.0, cache_size=500), method="sigmoid", cv=3, ensemble=False),
    "k-NN": lambda _: KNeighborsClassifier(100),
    "RF": lambda seed: RandomForestClassifier(100, random_state=seed),
    "MLP": lambda seed: MLPClassifier(hidden_layer_sizes=LAYERS, max_iter=EPOCHS, random_state=seed),
}
REGRESSORS: Mapping[Kind, Callable[[int], Any]] = {
    "k-NN": lambda _: KNeighborsRegressor(100),
    "RF": lambda seed: RandomForestRegressor(100, random_state=seed),
    "MLP": lambda seed: MLPRegressor(hidden_layer_sizes=LAYERS, max_iter=EPOCHS, random_state=seed),
}
SLOW = ("SVM", "MLP")  # minutes to fit and small on the disk; the others are the reverse

Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A recognizer of points (n, 2): label and confidence are the classifier's, or the confidence is the regressor's, within [0, 1]."""

    classifier: Any
    regressor: Any = None

    def __call__(self, inputs: Points) -> Answers:
        """Answer n points."""
        shares = self.classifier.predict_proba(inputs)
        confidences = shares.max(axis=1) if self.regressor is None else self.regressor.predict(inputs)
        return Answers(self.classifier.classes_[shares.argmax(axis=1)], np.clip(confidences, 0, 1).astype(np.float64))


def original(kind: Kind, points: Points, classes: NDArray[np.int64], *, seed: int, kept: Path, learned: int = LEARNED) -> Fitted:
    """Fit an original to its own random `learned` of the points (n, 2)."""
    rows = np.random.default_rng((seed, KINDS.index(kind))).permutation(len(points))[:learned]
    return Fitted(_fitted(CLASSIFIERS[kind](seed), points[rows], classes[rows], kept=kept if kind in SLOW else None))


def clone(of: Recognizer, kind: Kind, strategy: Strategy, *, random: np.random.Generator, kept: Path, learned: int = LEARNED) -> Fitted:
    """Fit a clone to the answers of a recognizer."""
    points, seed = uniform(learned, random), int(random.integers(2**31))
    told = of(points)
    slow = kind in SLOW
    classifier = _fitted(CLASSIFIERS[kind](seed), points, told.labels, kept=kept if slow else None)
    if strategy == "a":
        return Fitted(classifier)
    assert told.confidences is not None
    confidences = told.confidences.astype(np.float32)
    return Fitted(classifier, _fitted(REGRESSORS[kind](seed), points, confidences, kept=kept.with_suffix(".confidence") if slow else None))


def uniform(count: int, random: np.random.Generator) -> Points:
    """Points (count, 2) uniform in [-1, 1]^2."""
    return random.uniform(-1, 1, (count, 2)).astype(np.float32)


def _fitted(estimator: Any, points: Points, target: NDArray[Any], *, kept: Path | None) -> Any:
    """Fit, or read from the cache what was fitted before."""
    if kept and kept.exists():
        return pickle.loads(kept.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it ends after 200 epochs, as the paper's does
        estimator.fit(points, target)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(kept.suffix + ".partial")
        partial.write_bytes(pickle.dumps(estimator))
        partial.replace(kept)
    return estimator
