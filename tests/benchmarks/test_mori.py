"""Mori's tables in small: what a pair is, what the halves share, and that nothing is measured twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.seeds import mori_tables as tables
from benchmarks.seeds.mori_divisions import PAPER, Division, evaluate, folds
from benchmarks.seeds.mori_features import Features, train
from benchmarks.seeds.mori_pairs import ALL, CLONES, TABLE_I, UNRELATED, Pair, Size, measured
from benchmarks.seeds.mori_recognizers import CLONE_KINDS, STRATEGIES, Kind, Strategy, clone, original
from defenses.clone_detection.recognizer import Answers

SIZE = Size(learned=600, count=100, steps=(2, 5))


def clouds(count: int = 600) -> Features:
    """Points around four centres."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 4, count)
    centres = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    return Features((centres[classes] + random.normal(0, 0.15, (count, 2))).clip(-1, 1).astype(np.float32), classes, 1.0)


def drawn(*, apart: float) -> list[Pair]:
    """The 72 pairs of a seed with made-up features, which say something after 5 steps only."""
    random = np.random.default_rng(0)
    made = []
    for name in ("mnist", "cifar10"):
        for which in ALL:
            shift = apart * np.array([1, -1, -1]) * (which.strategy is not None)
            five = np.array([0.5, 0.4, 0.4]) + 0.1 * shift + random.normal(0, 0.01, 3)
            fifteen = random.random(3)
            made.append(Pair(name, 0, which, {5: tuple(five.tolist()), 15: tuple(fifteen.tolist())}))
    return made


def test_there_are_72_pairs() -> None:
    """12 ordered pairs of originals and 24 of original and clone, on each of two sets."""
    assert (len(UNRELATED), len(CLONES), len(set(ALL)) * 2) == (12, 24, 72)
    assert ALL[:3] == TABLE_I  # the cheap ones come first


def test_a_clone_agrees_with_its_original_and_is_kept(tmp_path: Path) -> None:
    """The pairs of Table I on four clouds: the clone of confidences agrees more than the stranger, in both.

    What is measured once is read the next time.
    """
    pairs = list(measured("mnist", 0, TABLE_I, clouds, out=tmp_path, size=SIZE))
    stranger, _, both = (pair.features[2] for pair in pairs)
    assert both[0] > stranger[0] and both[2] < stranger[2]
    assert all(0 <= value <= 1 for pair in pairs for triple in pair.features.values() for value in triple)

    def never() -> Features:
        raise AssertionError("features are not needed again")

    assert list(measured("mnist", 0, TABLE_I, never, out=tmp_path, size=SIZE)) == pairs


def test_a_clone_of_confidences_copies_them(tmp_path: Path) -> None:
    """Strategy (b) has a regressor of the original's confidence, (a) has a confidence of its own."""
    points = clouds()
    target = original("SVM", points.points, points.classes, seed=0, kept=tmp_path / "SVM", learned=300)
    asked = np.random.default_rng(1).uniform(-1, 1, (300, 2)).astype(np.float32)
    wanted = target(asked).confidences
    errors = {}
    for strategy in ("a", "b"):
        copy = clone(target, "RF", strategy, random=np.random.default_rng(2), kept=tmp_path / strategy, learned=1_000)
        told: Answers = copy(asked)
        assert wanted is not None and told.confidences is not None
        errors[strategy] = float(((told.confidences - wanted) ** 2).mean())
    assert errors["b"] < errors["a"] / 2


@pytest.mark.parametrize("kind", CLONE_KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_kind_clones_by_either_strategy(tmp_path: Path, kind: Kind, strategy: Strategy) -> None:
    """A clone by few answers already says its original's label more often than not, and a confidence; what was fitted is read again."""
    points = clouds()
    target = original("k-NN", points.points, points.classes, seed=0, kept=tmp_path / "k-NN", learned=300)

    def copied() -> Answers:
        return clone(target, kind, strategy, random=np.random.default_rng(2), kept=tmp_path / "kept", learned=300)(points.points)

    told, again = copied(), copied()
    assert told.confidences is not None and again.confidences is not None
    assert (told.labels == target(points.points).labels).mean() > 0.5
    assert np.array_equal(told.labels, again.labels) and np.array_equal(told.confidences, again.confidences)


@pytest.mark.parametrize(("division", "ways"), [("I", 6), ("II", 6), ("III", 36)])
def test_halves_share_what_they_may(division: Division, ways: int) -> None:
    """Kinds of originals, of suspects, or both differ between the halves; two of three tested pairs are clones."""
    pairs = drawn(apart=1)
    made = folds(pairs, division)
    assert len(made) == ways
    for learned, test in made:
        for kind, differs in (("original", division != "II"), ("suspect", division != "I")):
            one, other = ({getattr(pairs[i].which, kind) for i in np.flatnonzero(rows)} for rows in (learned, test))
            assert not differs or not one & other
    tested = np.sum([test for _, test in made], axis=0)
    assert len(set(tested.tolist())) == 1
    assert sum(pair.clone for pair in pairs) * 3 == len(pairs) * 2


def test_the_steps_are_chosen_where_they_say_something() -> None:
    """By the half that trains: with features that tell after 5 steps only, 5 is chosen in every fold, and accuracy is full."""
    found = evaluate(drawn(apart=2), "I", steps=(5, 15))
    assert found.steps == {5: 6}
    assert (found.accuracy, found.false_positive_rate, found.auc, found.wrong) == (1, 0, 1, {})
    noise = evaluate(drawn(apart=2), "I", steps=(15,))
    assert noise.balanced_accuracy < 0.7
    assert sum(noise.wrong.values()) == pytest.approx(72 * (1 - noise.accuracy))
    assert noise.true_positives + noise.false_negatives + noise.false_positives + noise.true_negatives == 3 * 72


def test_tables_show_the_papers_beside_ours() -> None:
    """Every table can be printed from one seed's pairs, and the reach says what was missed."""
    pairs = drawn(apart=2)
    found = [evaluate(pairs, division, steps=(5,)) for division in PAPER]
    assert tables.table_ii(found, seeds=1, title="").row_count == 2 * len(PAPER) + 1
    assert tables.fixed_table({5: found}).row_count == 1
    assert tables.wrong_table(found).row_count == 0
    assert tables.wrong_table([evaluate(pairs, division, steps=(15,)) for division in PAPER]).row_count == tables.WORST
    assert tables.steps_table(pairs).row_count == 4
    mnist = [pair for pair in pairs if pair.set == "mnist"]
    assert tables.table_i(mnist, (5, 15)).row_count == 9
    claims = tables.pattern(mnist, steps=5)
    assert next(iter(claims.values()))  # alpha
    reached = tables.reach(found, {0: claims})
    assert reached["table II's accuracy"]["I"] == {"wanted": 0.889, "reached": 1.0, "met": True}
    assert json.loads(json.dumps(found[0].to_json()))["accuracy"] == 1


def test_features_are_points_of_a_square() -> None:
    """Two numbers an image within [-1, 1], from a network that learned two shades; the same again with the same seed."""
    classes = np.arange(400) % 2
    images = np.clip(np.random.default_rng(0).normal(60 + 120 * classes, 20, (8, 8, 1, 400)).transpose(3, 0, 1, 2), 0, 255).astype(np.uint8)
    found = train(images, classes, widths=(4,), epochs=20, seed=1)
    assert found.points.shape == (400, 2) and np.abs(found.points).max() <= 1
    assert found.accuracy > 0.95
    assert np.array_equal(train(images, classes, widths=(4,), epochs=20, seed=1).points, found.points)
