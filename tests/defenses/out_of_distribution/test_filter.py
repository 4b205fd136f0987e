"""The filter: a score, two thresholds, a finding."""

from dataclasses import replace

import numpy as np
import pytest

from defenses.calibration import Calibration, CalibrationError
from defenses.out_of_distribution.filter import OutOfDistributionFilter
from defenses.out_of_distribution.scorers import Energy, LogisticRegression
from defenses.out_of_distribution.thresholds import threshold
from defenses.vocabulary import Case, Mode
from tests.defenses.cases import case_of

FIRST_FEATURE = LogisticRegression(np.eye(1, 32, dtype=np.float32)[0], np.array(0, np.float32))
BENIGN = np.arange(4, dtype=np.float32)


def case_with(scores: list[float]) -> Case:
    features = np.zeros((len(scores), 32), np.float32)
    features[:, 0] = scores
    return replace(case_of(len(scores)), features=features)


@pytest.mark.anyio
async def test_flags_strictly_above_the_threshold_and_doubts_above_the_lower_one() -> None:
    """The two thresholds belong to the side of the benign."""
    step = OutOfDistributionFilter(FIRST_FEATURE, benign=BENIGN, threshold=2.0, doubtful_threshold=1.0, mode=Mode.ENFORCE)
    finding = (await step(case_with([0.5, 1.0, 1.5, 2.0, 2.5]))).findings["ood"]
    assert finding.flagged.tolist() == [False, False, False, False, True]
    assert finding.doubtful.tolist() == [False, False, True, True, True]
    assert finding.score.tolist() == [0.25, 0.25, 0.5, 0.5, 0.75]  # the share of benign scores below
    assert finding.label == ("",) * 5
    assert finding.enforced


@pytest.mark.anyio
async def test_shadow_counts_but_enforces_nothing() -> None:
    """In shadow mode the finding says that it must not be acted on; scores stay as they were."""
    case = case_with([0.0, 9.0])
    after = await OutOfDistributionFilter(FIRST_FEATURE, benign=BENIGN, threshold=2.0, doubtful_threshold=1.0, mode=Mode.SHADOW)(case)
    assert after.findings["ood"].flagged.tolist() == [False, True]
    assert not after.findings["ood"].enforced
    assert after.scores is case.scores


@pytest.mark.anyio
async def test_a_score_that_is_no_number_is_flagged() -> None:
    """Broken features never let a query pass for an ordinary one."""
    step = OutOfDistributionFilter(FIRST_FEATURE, benign=BENIGN, threshold=2.0, doubtful_threshold=1.0, mode=Mode.ENFORCE)
    finding = (await step(case_with([float("nan")]))).findings["ood"]
    assert finding.flagged.tolist() == finding.doubtful.tolist() == [True]


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    """A doubtful threshold above the threshold would leave flagged queries undoubted."""
    with pytest.raises(ValueError, match="above the threshold"):
        OutOfDistributionFilter(FIRST_FEATURE, benign=BENIGN, threshold=1.0, doubtful_threshold=2.0, mode=Mode.ENFORCE)


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.01, 0.02, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 7, 300, 2500])
def test_no_more_benign_scores_than_asked_for_lie_above(fpr: float, n: int) -> None:
    """The share strictly above the threshold is at most `fpr`, and one score lower it would be more."""
    scores = np.random.default_rng(n).normal(size=n)
    limit = threshold(scores, fpr)
    assert (scores > limit).mean() <= fpr
    lower = scores[scores < limit]
    assert not lower.size or (scores > lower.max()).mean() > fpr


def test_tied_scores_stay_below() -> None:
    """Where many scores are equal, none of them is flagged rather than all."""
    assert threshold(np.array([0.0] + [1.0] * 99), 0.05) == 1.0


@pytest.mark.parametrize(("scores", "fpr"), [([], 0.05), ([1.0], -0.1), ([1.0], 1.1)])
def test_nonsense_has_no_threshold(scores: list[float], fpr: float) -> None:
    """No scores or an impossible rate are errors."""
    with pytest.raises(ValueError, match="false-positive rate"):
        threshold(np.array(scores), fpr)


def test_thresholds_come_from_the_calibration() -> None:
    """The rates are turned to scores at start; a stricter hysteresis than the rate itself cannot invert the two."""
    benign = np.linspace(0, 1, 1001, dtype=np.float32)
    calibration = Calibration(scorers={"energy": Energy()}, benign={"energy": benign}, default_scorer="energy")
    step = OutOfDistributionFilter.calibrated(calibration, scorer="auto", benign_fpr=0.02, hysteresis=0.05, mode=Mode.ENFORCE)
    assert step.threshold == pytest.approx(0.98)
    assert step.doubtful_threshold == pytest.approx(0.95)
    inverted = OutOfDistributionFilter.calibrated(calibration, scorer="energy", benign_fpr=0.05, hysteresis=0.01, mode=Mode.ENFORCE)
    assert inverted.doubtful_threshold == inverted.threshold == pytest.approx(0.95)


def test_an_uncalibrated_bundle_cannot_filter() -> None:
    """The error says what to do."""
    with pytest.raises(CalibrationError, match="cloneguard calibrate"):
        OutOfDistributionFilter.calibrated(Calibration(), scorer="auto", benign_fpr=0.02, hysteresis=0.05, mode=Mode.ENFORCE)
