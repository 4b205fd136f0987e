"""How many bisection steps, and how deep a tree: chosen by cross-validation on labelled pairs, never on those that are tested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]  # ships no types

from defenses.clone_detection.bank import Bools, Folds
from defenses.clone_detection.sampling import STEPS
from defenses.clone_detection.tree import Tree

DEPTHS = (1, 2, 3)
EVEN = 0.5  # a leaf with more clones than independents says clone

Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well shares of clones (n,) tell clones from independents, at even odds and at all."""

    true_positive_rate: float
    false_positive_rate: float
    auc: float

    @classmethod
    def of(cls, shares: Shares, clones: Bools) -> Self:
        """Raises ValueError without pairs of both kinds."""
        said, positives = shares > EVEN, int(clones.sum())
        negatives = len(clones) - positives
        if not positives or not negatives:
            raise ValueError("nothing to tell apart: pairs of one kind only")
        above = rankdata(shares)[clones].sum() - positives * (positives + 1) / 2  # Mann and Whitney's U; ties count half
        return cls(float(said[clones].mean()), float(said[~clones].mean()), float(above / (positives * negatives)))

    @property
    def balanced_accuracy(self) -> float:
        """The mean of what is right among clones and among independents: "always clone" has 0.5."""
        return (self.true_positive_rate + 1 - self.false_positive_rate) / 2


@dataclass(frozen=True, slots=True)
class Choice:
    """What cross-validation chose, and how well that did there: an optimistic figure, since it was chosen by it."""

    steps: int
    depth: int
    quality: Quality


def choose(
    features: Mapping[int, NDArray[np.float64]], clones: Bools, folds: Folds, *, names: Sequence[str], depths: Sequence[int] = DEPTHS
) -> Choice:
    """Choose among the numbers of steps that `features` has, (n, len(names)) each, and the depths.

    By balanced accuracy of the tested rows, then by AUC; what is left goes to the number of steps closest to the default, and to the
    smaller tree.
    """
    tested = np.any([test for _, test in folds], axis=0)
    choices = []
    for steps, rows in features.items():
        for depth in depths:
            shares = out_of_fold(rows, clones, folds, names=names, depth=depth)
            choices.append(Choice(steps, depth, Quality.of(shares[tested], clones[tested])))
    return max(
        choices, key=lambda one: (round(one.quality.balanced_accuracy, 9), round(one.quality.auc, 9), -abs(one.steps - STEPS), -one.depth)
    )


def out_of_fold(features: NDArray[np.float64], clones: Bools, folds: Folds, *, names: Sequence[str], depth: int) -> Shares:
    """Shares of clones (n,) by trees that did not learn from the row; the mean, where several folds test it; NaN, where none does."""
    total, times = np.zeros(len(clones)), np.zeros(len(clones))
    for learned, test in folds:
        assert not (learned & test).any(), "a row that is learned from is not tested"
        total[test] += Tree.fit(features[learned], clones[learned], names=names, depth=depth)(features[test])
        times[test] += 1
    means: Shares = np.divide(total, times, out=np.full(len(clones), np.nan), where=times > 0)
    return means
