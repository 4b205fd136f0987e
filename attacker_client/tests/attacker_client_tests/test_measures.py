"""Shares and their intervals."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from attacker_client.measures import Measure, accuracy, agreement, fidelity, per_class


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 1, 0.2065, 1.0)],
)
def test_the_interval_is_wilsons(hits: int, n: int, low: float, high: float) -> None:
    """Published values of Wilson's interval; 81 of 263 is Newcombe's example (1998)."""
    measure = Measure.of(hits, n)
    assert measure.value == hits / n and measure.n == n
    assert [measure.low, measure.high] == pytest.approx([low, high], abs=1e-4)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 4,000 samples of 50 with a true share of 0.9, about 95% have it within their bounds."""
    hits = np.random.default_rng(0).binomial(50, 0.9, 4000)
    covered = np.mean([(m := Measure.of(int(h), 50)).low <= 0.9 <= m.high for h in hits])
    assert 0.93 < covered < 0.98


def test_agreement_counts_equal_labels_and_is_symmetric() -> None:
    """Three of four labels are equal, whoever is asked first."""
    a, b = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])
    assert agreement(a, b) == agreement(b, a) == accuracy(a, b) and agreement(a, b).value == 0.75


def test_a_measure_is_json() -> None:
    """As run.json keeps it."""
    page = json.loads(json.dumps(asdict(Measure.of(1, 2))))
    assert set(page) == {"value", "low", "high", "n"} and page["n"] == 2


def test_images_without_an_answer_do_not_count_for_fidelity() -> None:
    """Fidelity is over answered images; where there is none, it is unknown, not zero."""
    measured = fidelity(np.array([0, 1, 1]), np.array([0, -1, 0]))
    assert measured is not None and (measured.value, measured.n) == (0.5, 2)
    assert fidelity(np.array([0, 1]), np.array([-1, -1])) is None


def test_each_class_that_is_shown_has_its_row() -> None:
    """Classes in order, with their own counts; a class that no image shows has none."""
    rows = per_class(np.array([2, 0, 2, 0]), np.array([2, 2, 2, 0]), told=np.array([2, 0, 0, -1]), names=["cat", "dog", "fox"])
    assert [(row.class_id, row.name, row.accuracy.n) for row in rows] == [(0, "cat", 1), (2, "fox", 3)]
    assert rows[0].fidelity is None and rows[1].fidelity == Measure.of(2, 3)
    assert rows[1].accuracy == Measure.of(2, 3)
    json.dumps([asdict(row) for row in rows], allow_nan=False)
