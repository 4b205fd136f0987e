"""The step that scores every query against the recognizer's own distribution."""

from typing import Self

import numpy as np

from defenses.calibration import Calibration
from defenses.out_of_distribution.scorers import Scorer
from defenses.vocabulary import Case, Finding, Floats, Mode


class OutOfDistributionFilter:
    """Flag queries that lie outside the recognizer's distribution (Atli et al., 2020).

    A query is flagged strictly above `threshold`, and doubtful strictly above `doubtful_threshold`, which may not be
    the higher one: a near-duplicate of somebody else's flagged query is altered only if it is doubtful itself, so that
    nobody can spoil the answers around an ordinary image. The finding's score is the share of `benign` scores (ascending) that lie
    below the query's, so that it means the same for every scorer: above 0.98 is above the threshold of 2% benign false positives.
    """

    def __init__(self, scorer: Scorer, *, benign: Floats, threshold: float, doubtful_threshold: float, mode: Mode) -> None:
        if not doubtful_threshold <= threshold:
            raise ValueError(f"the doubtful threshold {doubtful_threshold} is above the threshold {threshold}")
        self.scorer, self.benign, self.mode = scorer, benign, mode
        self.threshold, self.doubtful_threshold = threshold, doubtful_threshold

    @classmethod
    def calibrated(cls, calibration: Calibration, *, scorer: str, benign_fpr: float, hysteresis: float, mode: Mode) -> Self:
        """Take the scorer (a name, or "auto") and its thresholds from a bundle's calibration.

        `benign_fpr` and `hysteresis` are the shares of benign images above the two thresholds. Raises CalibrationError when the
        bundle was not calibrated with that scorer.
        """
        name, fitted = calibration.scorer(scorer)
        high = calibration.threshold(name, benign_fpr)
        low = min(high, calibration.threshold(name, hysteresis))
        return cls(fitted, benign=calibration.benign[name], threshold=high, doubtful_threshold=low, mode=mode)

    async def __call__(self, case: Case) -> Case:
        score = self.scorer(logits=case.logits, features=case.features)
        assert score.shape == (len(case.queries),), score.shape
        # a score that is no number comes from no image the recognizer was made for
        finding = Finding(
            flagged=~(score <= self.threshold),
            score=(np.searchsorted(self.benign, score) / len(self.benign)).astype(np.float32),
            label=("",) * len(score),
            doubtful=~(score <= self.doubtful_threshold),
            enforced=self.mode is Mode.ENFORCE,
        )
        return case.with_finding("ood", finding)
