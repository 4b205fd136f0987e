"""The figures of a filter, from the scores of benign images and of foreign ones; a higher score is more foreign.

TPR is the share of foreign images that are flagged, TNR the share of benign ones that are not (Atli et al., 2020).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from defenses.out_of_distribution.thresholds import threshold

RATES = (0.05, 0.01, 0.001)

Scores = NDArray[np.floating[Any]]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class AtRate:
    """What is flagged at a stated benign false-positive rate, when thresholds rest on other benign images than the FPR is measured with."""

    asked_fpr: float
    fpr: float
    tpr: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One scorer on one query set; `tpr` and `tnr` at its natural operating point, NaN if it has none."""

    benign: int
    queries: int
    tpr: float
    tnr: float
    equal_error: float
    auroc: float
    at_filter_tnr: AtRate
    at_rates: tuple[AtRate, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; what there is not is null."""
        return {key: None if value != value else value for key, value in asdict(self).items()}  # noqa: PLR0124 - NaN is not itself


def figures(benign: Scores, foreign: Scores, *, filter_tnr: float, natural: float | None, seed: int = 0) -> Figures:
    """Measure scores of benign images (n,) and foreign ones (m,).

    `natural` is the scorer's own threshold, where it has one: the filter's is 0, even log-odds. `filter_tnr` is the TNR that rivals
    are compared at.
    """
    assert benign.ndim == foreign.ndim == 1, (benign.shape, foreign.shape)
    return Figures(
        benign=len(benign),
        queries=len(foreign),
        tpr=float("nan") if natural is None else float((foreign > natural).mean()),
        tnr=float("nan") if natural is None else float((benign <= natural).mean()),
        equal_error=equal_error(benign, foreign),
        auroc=auroc(benign, foreign),
        at_filter_tnr=at_rate(benign, foreign, 1 - filter_tnr, seed=seed),
        at_rates=tuple(at_rate(benign, foreign, rate, seed=seed) for rate in RATES),
    )


def at_rate(benign: Scores, foreign: Scores, fpr: float, *, seed: int = 0) -> AtRate:
    """Take the threshold from a random half of the benign images and the FPR from the other, both ways round, and average."""
    order = np.random.default_rng(seed).permutation(len(benign))
    halves = benign[order[::2]], benign[order[1::2]]
    found = []
    for learned, measured in (halves, halves[::-1]):
        limit = threshold(learned, fpr)
        found.append(((measured > limit).mean(), (foreign > limit).mean()))
    return AtRate(fpr, *(float(value) for value in np.mean(found, axis=0)))


def equal_error(benign: Scores, foreign: Scores) -> float:
    """Where the ROC curve crosses TPR = TNR: the rate of both."""
    fpr, tpr = curve(benign, foreign)
    return float(np.interp(0, tpr - (1 - fpr), tpr))


def auroc(benign: Scores, foreign: Scores) -> float:
    """How often a foreign image scores above a benign one."""
    return float(roc_auc_score(*_labelled(benign, foreign)))


def curve(benign: Scores, foreign: Scores) -> Curve:
    """The ROC curve: false-positive rates and true-positive rates, (k,) each, ascending."""
    fpr, tpr, _ = roc_curve(*_labelled(benign, foreign))
    return fpr, tpr


def _labelled(benign: Scores, foreign: Scores) -> tuple[NDArray[np.int64], Scores]:
    return np.repeat([0, 1], [len(benign), len(foreign)]), np.concatenate([benign, foreign])
