"""The bisection comes close to the boundary, and asks no more than it says."""

import numpy as np
import pytest

from defenses.clone_detection.recognizer import Answers, Counted, Inputs
from defenses.clone_detection.sampling import NoBoundaryError, boundary_sample, boundary_samples, random_sample, unequal_pairs
from tests.defenses.clone_detection.squares import Halves, square


def test_bisection_halves_the_distance_to_the_boundary() -> None:
    """After k steps a point lies within its pair's distance / 2^k of the boundary, along x; after 20 steps it is on it."""
    for steps in (1, 5, 20):
        sample = boundary_sample(Halves(at=0.3), square(400), random=np.random.default_rng(1), count=200, steps=steps)
        assert np.abs(sample.inputs[:, 0] - 0.3).max() <= 2 / 2**steps
    assert sample.original.labels.tolist() == Halves(at=0.3)(sample.inputs).labels.tolist()


def test_every_step_is_a_sample() -> None:
    """One bisection of 6 steps gives what a bisection of 3 steps gives on its way, at the price of 3."""
    path = list(boundary_samples(Halves(), square(400), random=np.random.default_rng(1), count=100, steps=6))
    third = boundary_sample(Halves(), square(400), random=np.random.default_rng(1), count=100, steps=3)
    assert np.array_equal(path[2].inputs, third.inputs)
    assert [sample.queries for sample in path] == [100 * (2 + k) for k in range(1, 7)]
    assert path[2].queries == third.queries


def test_the_budget_is_two_and_k_queries_a_point() -> None:
    """Including those for drawing pairs; a random point costs one, and a small pool is not asked twice."""
    original = Counted(Halves())
    assert boundary_sample(original, square(3_000), random=np.random.default_rng(0), count=100, steps=4).queries == original.queries == 600
    assert boundary_sample(original, square(50), random=np.random.default_rng(0), count=100, steps=4).queries == 450
    assert random_sample(original, square(3_000), random=np.random.default_rng(0), count=100).queries == 100
    assert original.queries == 600 + 450 + 100


def test_a_third_class_replaces_the_second_point() -> None:
    """Between two classes lies a third: the bisection ends at its border with the first point's class, not in its inside."""

    def strip(inputs: Inputs) -> Answers:
        return Answers(np.digitize(inputs[:, 0], [-0.25, 0.25]).astype(np.int64))

    pool = np.array([[-1.0, 0.0]] * 10 + [[0.9, 0.0]] * 10)
    sample = boundary_sample(strip, pool, random=np.random.default_rng(0), count=200, steps=20)
    assert np.abs(np.abs(sample.inputs[:, 0]) - 0.25).max() < 1e-4
    assert 0 < (sample.inputs[:, 0] > 0).mean() < 1  # the near border of whichever point came first


def test_images_stay_images() -> None:
    """Of uint8 images the middle is a uint8 image, and it is that image which the original was asked about."""

    def bright(inputs: Inputs) -> Answers:
        assert inputs.dtype == np.uint8
        return Answers((inputs.mean(axis=(1, 2, 3)) > 127.5).astype(np.int64))

    pool = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 1)) * np.ones((1, 4, 4, 3), dtype=np.int64)
    sample = boundary_sample(bright, pool.astype(np.uint8), random=np.random.default_rng(0), count=50, steps=12)
    assert sample.inputs.shape == (50, 4, 4, 3) and sample.inputs.dtype == np.uint8
    assert np.abs(sample.inputs.astype(float) - 127.5).max() <= 1.5
    assert np.array_equal(bright(sample.inputs).labels, sample.original.labels)


def test_pairs_always_differ_and_are_uniform() -> None:
    """Every ordered pair of rows with different labels is as likely as any other, also where one class dominates."""
    labels = np.array([0, 0, 0, 0, 1, 2, 0, 1])
    first, second = unequal_pairs(labels, 60_000, np.random.default_rng(0))
    assert (labels[first] != labels[second]).all()
    counts = np.bincount(first * len(labels) + second, minlength=len(labels) ** 2).reshape(len(labels), len(labels))
    allowed = labels[:, None] != labels[None]
    expected = 60_000 / allowed.sum()
    assert (counts[~allowed] == 0).all()
    assert np.abs(counts[allowed] - expected).max() < 5 * np.sqrt(expected)


def test_without_a_boundary_there_is_no_sample() -> None:
    """An original with one answer for everything is an error that says so."""
    with pytest.raises(NoBoundaryError, match="all 40 inputs"):
        boundary_sample(Halves(at=5), square(100), random=np.random.default_rng(0), count=20)
