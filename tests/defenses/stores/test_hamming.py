"""Exact Hamming search."""

import os
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from defenses.stores.hamming import HammingIndex, widest_exact_radius
from defenses.vocabulary import Bits


def oldest_by_brute_force(stored: Bits, codes: Bits, radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    distances = np.bitwise_count(codes[:, None] ^ stored[None]).sum(axis=2, dtype=np.int64)
    near = distances <= radius
    oldest = np.where(near.any(axis=1), near.argmax(axis=1), -1)
    return oldest, np.where(oldest >= 0, distances[np.arange(len(codes)), oldest], -1)


def flipped(rng: np.random.Generator, codes: Bits, flips: NDArray[np.int64]) -> Bits:
    """Flip `flips` (n,) bits of each code: in half of them anywhere, in the other half within as few bands as will hold them."""
    bits = np.unpackbits(codes, axis=1)
    for row, count in enumerate(flips.tolist()):
        room = bits.shape[1] if row % 2 else max(16, count)
        bits[row, rng.choice(room, count, replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("width", [2, 8, 16, 32])
def test_the_search_is_exact_at_every_radius(width: int) -> None:
    """Positions and distances equal a brute-force search's, from radius 0 to the widest that the bands allow."""
    rng = np.random.default_rng(width)
    widest = widest_exact_radius(width)
    stored = rng.integers(0, 256, (300, width), dtype=np.uint8)
    stored[200:250] = flipped(rng, stored[:50], rng.integers(0, widest + 1, 50))
    stored[250:] = stored[50:100]
    codes = flipped(rng, stored[rng.integers(0, 300, 400)], rng.integers(0, min(8 * width, widest + 4), 400))
    index = HammingIndex(width)
    assert index.add(stored[:120]).tolist() == list(range(120))
    assert index.add(stored[120:]).tolist() == list(range(120, 300))
    for radius in range(widest + 1):
        oldest, distances = index.oldest_within(codes, radius)
        expected_oldest, expected_distances = oldest_by_brute_force(stored, codes, radius)
        np.testing.assert_array_equal(oldest, expected_oldest)
        np.testing.assert_array_equal(distances, expected_distances)


def test_what_is_dropped_or_before_the_start_is_not_found() -> None:
    """Dropping the oldest moves the others down; a later start skips what is there."""
    rng = np.random.default_rng(1)
    stored = rng.integers(0, 256, (50, 8), dtype=np.uint8)
    stored[30:] = stored[:20]
    index = HammingIndex(8)
    index.add(stored)
    for start in (0, 1, 10, 40, 50):
        positions, distances = index.oldest_within(stored, 0, start=start)
        expected, _ = oldest_by_brute_force(stored[start:], stored, 0) if start < 50 else (np.full(50, -1), None)
        np.testing.assert_array_equal(positions, np.where(expected >= 0, expected + start, -1))
        np.testing.assert_array_equal(distances, np.where(expected >= 0, 0, -1))
    index.drop_oldest(10)
    assert len(index) == 40
    expected, _ = oldest_by_brute_force(stored[10:], stored, 0)
    np.testing.assert_array_equal(index.oldest_within(stored, 0)[0], expected)


def test_one_bit_more_than_the_bands_allow_is_refused() -> None:
    """A radius that the search would answer inexactly is a programmer's error, not a worse answer."""
    assert [widest_exact_radius(width) for width in (8, 16, 32)] == [7, 15, 31]
    with pytest.raises(AssertionError):
        HammingIndex(8).oldest_within(np.zeros((1, 8), np.uint8), 8)


def test_an_empty_index_finds_nothing() -> None:
    """Before the first code there is nothing within any radius."""
    oldest, distances = HammingIndex(8).oldest_within(np.zeros((3, 8), np.uint8), 7)
    assert oldest.tolist() == distances.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.abuse)])
def test_threads_may_add_and_search_at_once(seconds: int) -> None:
    """Eight threads add and search: no crash, no lost insert, and each thread finds its own codes again."""
    if seconds == 60 and os.environ.get("CLONEGUARD_ABUSE") != "full":
        pytest.skip("full length only with CLONEGUARD_ABUSE=full")
    index = HammingIndex(16)
    added: list[tuple[NDArray[np.int64], Bits]] = []
    failures: list[BaseException] = []
    until = time.monotonic() + seconds

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while time.monotonic() < until:
                codes = rng.integers(0, 256, (16, 16), dtype=np.uint8)
                positions = index.add(codes)
                added.append((positions, codes))
                np.testing.assert_array_equal(index.oldest_within(codes, 0)[0], positions)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    positions = np.concatenate([positions for positions, _ in added])
    assert sorted(positions.tolist()) == list(range(len(index)))
    for expected, codes in added[:: max(1, len(added) // 1000)]:
        np.testing.assert_array_equal(index.oldest_within(codes, 0)[0], expected)
