"""False merges: rates far below one pair in the sample, and duplicates that are none."""

import numpy as np
import pytest
from scipy.stats import binom  # type: ignore[import-untyped]  # ships no types

from defenses.false_merges import FalseMerges, closest_pairs, hamming
from defenses.vocabulary import Bits


def codes(n: int, *, bits: int, seed: int = 0) -> Bits:
    return np.random.default_rng(seed).integers(0, 256, (n, bits // 8), dtype=np.uint8)


def flipped(originals: Bits, *, bits: int, seed: int = 1) -> Bits:
    random, copies = np.random.default_rng(seed), np.unpackbits(originals, axis=1)
    for row in copies:
        row[random.permutation(len(row))[:bits]] ^= 1
    return np.packbits(copies, axis=1)


@pytest.mark.parametrize(("bits", "radius"), [(64, 7), (64, 9), (96, 19)])
def test_rates_below_one_pair_are_those_of_the_distribution(bits: int, radius: int) -> None:
    """Independent bits: distances are binomial. Two million pairs tell rates of 1e-8 to 1e-11 within a factor of four."""
    merges = FalseMerges.among(codes(2000, bits=bits))
    true = binom.cdf(radius, bits, 0.5)
    assert merges.counted[radius] == 0
    assert true / 4 < merges.rates[radius] < 4 * true


def test_pairs_with_others_leave_out_those_among_themselves() -> None:
    """Frames of one film lie close together; held-out images of other films say how far apart distinct ones are."""
    films = np.concatenate([flipped(codes(100, bits=64), bits=2, seed=seed) for seed in range(8)])
    merges = FalseMerges.among(codes(800, bits=64, seed=5), films)
    assert merges.pairs == 800 * 800
    assert merges.counted[5] == 0
    assert (merges.widest_radius(5e-4, most=20) or 0) >= 5 > (FalseMerges.among(films).widest_radius(5e-4, most=20) or 0)


def test_where_pairs_are_many_they_are_counted() -> None:
    """No curve stands in for what the sample knows."""
    merges = FalseMerges.among(codes(1000, bits=64))
    np.testing.assert_allclose(merges.rates[25:30:2], merges.counted[25:30:2], rtol=0.01)


@pytest.mark.parametrize("distance", [0, 2, 5])
def test_true_duplicates_stand_apart(distance: int) -> None:
    """With 3% of the images there twice, the rates of distinct ones stay what they were, and the pairs are reported."""
    originals = codes(2000, bits=64)
    alone = FalseMerges.among(originals)
    doubled = FalseMerges.among(np.concatenate([originals, flipped(originals[:60], bits=distance)]))
    assert 50 <= doubled.apart <= 70
    assert alone.apart <= 5
    assert doubled.widest_radius(5e-4, most=20) == alone.widest_radius(5e-4, most=20)


def test_the_share_among_stored_images() -> None:
    """1 - (1 - rate)^stored, also where the rate is tiny or 1."""
    merges = FalseMerges(np.zeros(3), np.array([1e-12, 1e-3, 1.0]), 100, 0)
    np.testing.assert_allclose(merges.shares(1000), [1e-9, 1 - 0.999**1000, 1])


def test_the_widest_radius_is_the_last_that_is_allowed() -> None:
    """None where even equal codes merge too many; never above the limit of the stores."""
    merges = FalseMerges(np.zeros(4), np.array([1e-9, 1e-9, 1e-6, 1e-2]), 100, 0)
    assert merges.widest_radius(1e-3, most=3) == 1
    assert merges.widest_radius(1e-3, most=0) == 0
    assert merges.widest_radius(1e-6, most=3) is None


def test_images_that_all_look_alike_have_no_radius() -> None:
    """Equal codes, and three kinds of them, are no duplicates of each other that could be left out."""
    assert FalseMerges.among(np.zeros((50, 8), np.uint8)).widest_radius(1e-3, most=7) is None
    assert FalseMerges.among(codes(3, bits=64)[np.arange(200) % 3]).widest_radius(1e-3, most=7) is None


def test_closest_pairs_are_all_pairs_within_reach() -> None:
    """Across blocks of rows too; each once, closest first."""
    some = codes(700, bits=64)
    every = np.concatenate([some, flipped(some[:30], bits=3)])
    found = closest_pairs(every, within=3, most=100)
    assert [(first, second) for _, first, second in found] == [(i, 700 + i) for i in range(30)]
    distances = hamming(every, every)
    assert all(distances[first, second] == distance for distance, first, second in found)
    assert len(closest_pairs(every, within=30, most=7)) == 7
