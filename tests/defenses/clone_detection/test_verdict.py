"""Choices are made without the tested rows, and a p-value means what it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest  # type: ignore[import-untyped]  # ships no types

from defenses.clone_detection.bank import Bank, BankError, Model
from defenses.clone_detection.choosing import Quality, choose, out_of_fold
from defenses.clone_detection.features import ALL, ALL_LABELS_ONLY, NAMES, Features, Interval
from defenses.clone_detection.verdict import Judge, upper_bound
from tests.defenses.clone_detection.squares import MIDDLE, bank


def features(*values: float) -> Features:
    """As measured, with some intervals."""
    found = dict(zip(ALL if len(values) == len(ALL) else ALL_LABELS_ONLY, (Interval(value, 0, 1) for value in values), strict=True))
    beta, gamma = found.get("beta"), found.get("gamma")
    return Features(found["alpha"], beta, gamma, found["delta"], 5, 1, 1, "" if beta else "labels only")


def test_cross_validation_finds_the_steps_that_say_something() -> None:
    """Features after 15 steps are noise in this bank: 5 are chosen, and quality is that of rows with unseen architectures."""
    known = bank(apart=8)
    choice = choose({k: known.features(k) for k in known.steps}, known.clones, known.architectures_held_out(), names=ALL)
    assert known.steps == (5, 15) and choice.steps == 5
    assert choice.quality.balanced_accuracy > 0.95 and choice.quality.auc > 0.95


def test_no_tested_row_shares_an_architecture_with_a_learned_one() -> None:
    """Neither its original's nor its suspect's; and every row is tested once."""
    known = bank(apart=4)
    folds = known.architectures_held_out()
    kinds = [{known.models[row.original].architecture, known.models[row.suspect].architecture} for row in known.rows]
    for learned, test in folds:
        seen = set().union(*(kinds[i] for i in np.flatnonzero(learned)))
        assert all(not kinds[i] & seen for i in np.flatnonzero(test))
    assert (np.sum([test for _, test in folds], axis=0) == 1).all()
    assert not np.isnan(out_of_fold(known.features(5), known.clones, folds, names=ALL, depth=1)).any()


def test_p_values_of_independents_are_uniform_or_larger() -> None:
    """Independents that are no part of the bank get p-values that are small no more often than they should be."""
    judge = Judge.of(bank(apart=3), steps=5)
    random = np.random.default_rng(1)
    values = np.array([judge.p_value(random.normal(MIDDLE, 0.02)[None]) for _ in range(400)])
    for level in (0.02, 0.05, 0.1, 0.3):
        assert (values <= level).mean() < level + 0.04
    assert kstest(values, "uniform").statistic < 0.2


def test_a_clone_is_consistent_with_cloning_and_a_stranger_is_not() -> None:
    """With the rates that the bank has, never as proof; its p-value can't be smaller than 1 / (1 + n)."""
    judge = Judge.of(bank(apart=8))
    clone, stranger = judge(features(0.68, 0.12, 0.12, 0.58)), judge(features(*MIDDLE))
    assert clone.consistent and clone.p_value == pytest.approx(1 / 133)
    assert not stranger.consistent and stranger.p_value > 0.05
    assert clone.independents == 132 and clone.false_positive_rate <= clone.at_most < 0.4
    assert not judge(features(0.68, 0.12, 0.12, 0.58), level=0.001).consistent
    assert "too few" in judge(features(0.68, 0.12, 0.12, 0.58), level=0.001).message


def test_a_suspect_that_tells_labels_is_judged_by_alpha_and_delta() -> None:
    """With a tree of their own, and the message that came with the features."""
    verdict = Judge.of(bank(apart=8), names=ALL_LABELS_ONLY)(features(0.7, 0.6))
    assert verdict.consistent and "labels only" in verdict.message


def test_a_judge_may_go_by_the_papers_features() -> None:
    """What delta says then changes nothing."""
    judge = Judge.of(bank(apart=8), names=NAMES)
    assert judge(features(0.68, 0.12, 0.12, 0.0)) == judge(features(0.68, 0.12, 0.12, 1.0))


def test_bounds_know_that_pairs_share_models() -> None:
    """132 pairs of 12 models without a false one say less than 132 trials; one model that is always mistaken says much less."""
    pairs = [(str(i), str(j)) for i in range(12) for j in range(12) if i != j]
    none = upper_bound(np.zeros(132, dtype=np.bool_), pairs, random=np.random.default_rng(0))
    one = upper_bound(np.array([suspect == "3" for _, suspect in pairs]), pairs, random=np.random.default_rng(0))
    spread = upper_bound(np.arange(132) % 12 == 0, pairs, random=np.random.default_rng(0))
    assert none == pytest.approx(1 - 0.05 ** (1 / 12))
    assert one >= spread > none
    assert upper_bound(np.ones(132, dtype=np.bool_), pairs, random=np.random.default_rng(0)) == 1


def test_quality_counts() -> None:
    """Ties are worth half, and pairs of one kind have no quality."""
    assert Quality.of(np.array([1, 0.5, 0.5, 0]), np.array([True, True, False, False])) == Quality(0.5, 0, 0.875)
    with pytest.raises(ValueError, match="one kind"):
        Quality.of(np.ones(3), np.ones(3, dtype=np.bool_))


def test_a_bank_survives_its_file(tmp_path: Path) -> None:
    """Everything that a verdict rests on is read as it was written; damage is named."""
    known = bank(apart=4, models=4)
    known.save(tmp_path / "bank.json")
    assert Bank.load(tmp_path / "bank.json") == known
    (tmp_path / "bank.json").write_text((tmp_path / "bank.json").read_text().replace('"m3": {', '"m9": {'))
    with pytest.raises(BankError, match="does not describe: m3"):
        Bank.load(tmp_path / "bank.json")
    (tmp_path / "bank.json").write_text("[]")
    with pytest.raises(BankError, match="no bank"):
        Bank.load(tmp_path / "bank.json")


def test_too_few_architectures_are_said() -> None:
    """A bank of one architecture can't say what happens with another."""
    known = bank(apart=4, models=4)
    alike = replace(known, models={name: Model("round", model.clone_of) for name, model in known.models.items()})
    with pytest.raises(BankError, match="add architectures"):
        Judge.of(alike)


def shifted(known: Bank) -> tuple[Bank, dict[str, np.ndarray]]:
    """A bank whose originals differ from each other by far more than clones differ from independents."""
    random = np.random.default_rng(3)
    shifts = {name: random.normal(0, 0.5, len(ALL)) for name in known.models}
    rows = tuple(
        replace(row, features={k: tuple((np.array(values) + shifts[row.original]).tolist()) for k, values in row.features.items()})
        for row in known.rows
    )
    return replace(known, rows=rows), shifts


def test_a_suspect_is_compared_with_its_originals_own_independents() -> None:
    """What is much for one original is little for another: only by how far they stand from these are clones told."""
    known, shifts = shifted(bank(apart=8))
    alone, own = Judge.of(known, steps=5), Judge.of(known, steps=5, original="m3")
    assert own.choice.quality.balanced_accuracy > 0.95
    assert alone.choice.quality.balanced_accuracy < 0.8
    clone, stranger = (np.array(values) + shifts["m3"] for values in ((0.66, 0.14, 0.14, 0.56), MIDDLE))
    assert own(features(*clone)).consistent and not own(features(*stranger)).consistent


def test_independents_stand_about_nowhere() -> None:
    """Each is measured against the others: mean 0 and a spread of about 1, whatever its original; clones stand far off."""
    known, _ = shifted(bank(apart=8))
    placed = known.relative(5)
    assert np.abs(placed[~known.clones].mean(axis=0)).max() < 0.2 and placed[~known.clones].std(axis=0) == pytest.approx(1.2, abs=0.3)
    assert (np.abs(placed[known.clones].mean(axis=0)) > 5).all()


def test_an_original_that_the_bank_does_not_know_is_judged_by_features_as_they_are() -> None:
    """Nor is one of which too few independents were measured."""
    known = bank(apart=8)
    assert known.knows("m3") and not known.knows("theirs") and not bank(apart=8, models=5).knows("m3")
    assert Judge.of(known, original="theirs").strangers is None
    assert Judge.of(known, original="theirs")(features(*MIDDLE)) == Judge.of(known)(features(*MIDDLE))
