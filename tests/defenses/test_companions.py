"""Companions: what an impersonation needs to know of the classes."""

import numpy as np
import pytest

from defenses.companions import LEAST_IMAGES, Companions, plain_companions


def answers(counts: list[int], *, seed: int = 0) -> np.ndarray:
    """Logits of images of each class; a class and the one beside it (0 and 1, 2 and 3 ...) are taken for each other, even ones less."""
    random = np.random.default_rng(seed)
    best = np.repeat(np.arange(len(counts)), counts)
    logits = random.normal(0, 0.3, (len(best), len(counts))).astype(np.float32)
    rows = np.arange(len(best))
    logits[rows, best] = 9
    logits[rows, best ^ 1] = np.where(best % 2, 5, 1) + random.normal(0, 0.3, len(best))
    return logits


def test_every_class_comes_first_and_the_one_it_is_taken_for_second() -> None:
    """Rows are orders of all classes."""
    orders = Companions.fit(answers([100] * 6)).orders
    assert (np.sort(orders, axis=1) == np.arange(6)).all()
    assert (orders[:, 0] == np.arange(6)).all()
    assert (orders[[1, 3, 5], 1] == [0, 2, 4]).all()


def test_classes_that_answer_alike_are_told_for_each_other_most() -> None:
    """An odd class is told as an odd one much oftener than as an even one, and every other class can be told."""
    weights = Companions.fit(answers([100] * 6)).weights
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (weights[~np.eye(6, dtype=bool)] > 0).all()
    assert (weights.diagonal() == 0).all()
    assert weights[1, [3, 5]].sum() > 0.8
    assert weights[0, [2, 4]].sum() > 0.8


def test_every_class_is_told_as_often_as_it_is_meant() -> None:
    """Labels alone tell a thief nothing, not even where some classes are three times as frequent."""
    counts = [100, 120, 150, 180, 240, 300]
    frequencies = np.array(counts) / sum(counts)
    np.testing.assert_allclose(frequencies @ Companions.fit(answers(counts)).weights, frequencies, rtol=0.07)


def test_a_class_that_is_hardly_ever_seen_is_followed_by_what_is_close_everywhere() -> None:
    """Its order is that of all answers together, itself first; its weights are there."""
    fitted = Companions.fit(answers([50, 50, 50, 50, LEAST_IMAGES - 1, 0]))
    assert fitted.orders[4, 0] == 4
    assert [c for c in fitted.orders[4] if c < 4] == [c for c in fitted.orders[5] if c < 4]
    assert np.isfinite(fitted.weights).all()
    assert (fitted.weights[~np.eye(6, dtype=bool)] > 0).all()


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_without_answers_the_others_follow_in_the_order_of_their_ids(classes: int) -> None:
    """A recognizer that was never calibrated can impersonate too, only worse."""
    plain = plain_companions(classes)
    c = classes // 2
    assert plain.orders[c].tolist() == [c, *(other for other in range(classes) if other != c)]
    np.testing.assert_allclose(plain.weights.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 1000])
def test_few_and_many_classes_can_be_learned(classes: int) -> None:
    """Nothing is divided by zero where there are two classes, or fewer images than classes."""
    fitted = Companions.fit(np.random.default_rng(0).normal(size=(300, classes)).astype(np.float32))
    assert (np.sort(fitted.orders, axis=1) == np.arange(classes)).all()
    np.testing.assert_allclose(fitted.weights.sum(axis=1), 1, atol=1e-5)
