"""Where to ask: inputs close to the original's decision boundary, by bisection, and inputs at random (Mori, Nakamura, Nitta, Babaguchi)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.clone_detection.recognizer import Answers, Counted, Inputs, Recognizer

COUNT = 1_000  # inputs of a sample, the paper's
STEPS = 5  # of the bisection; the paper states none


class NoBoundaryError(ValueError):
    """The original gives everything in the pool the same label."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Inputs (n, ...) with the original's answers to them; `queries` is what the original was asked to get here.

    `steps` are the bisection's, 0 for a random sample.
    """

    inputs: Inputs
    original: Answers
    queries: int
    steps: int = 0


def random_sample(original: Recognizer, pool: Inputs, *, random: np.random.Generator, count: int = COUNT) -> Sample:
    """Draw `count` different inputs of the pool at random, at one query each; all of them, where the pool is smaller.

    For beta and delta. For image recognizers the pool are unrelated natural images: uniform pixels mean nothing to them.
    """
    inputs = pool[random.permutation(len(pool))[:count]]
    return Sample(inputs, original(inputs), len(inputs))


def boundary_sample(original: Recognizer, pool: Inputs, *, random: np.random.Generator, count: int = COUNT, steps: int = STEPS) -> Sample:
    """Find `count` inputs near the original's boundary, at most 2 + `steps` queries each. For alpha and gamma.

    `steps` decides: a clone agrees with its original close to the boundary, but not arbitrarily close, so alpha falls to that of
    strangers when the bisection goes on until it converges. Calibrate it (`bank.py`). Raises NoBoundaryError.
    """
    assert steps >= 1, steps
    *_, last = boundary_samples(original, pool, random=random, count=count, steps=steps)
    return last


def boundary_samples(
    original: Recognizer, pool: Inputs, *, random: np.random.Generator, count: int = COUNT, steps: int = STEPS
) -> Iterator[Sample]:
    """The samples after 1, 2 ... `steps` steps of one bisection, in batches of `count`: a way to compare them at the price of the last.

    Repeat: v = (v1 + v2) / 2, and v replaces v1 if f(v) = f(v1), otherwise v2, also where f(v) is a third class. The sample is the
    last v. Images stay uint8: the middle is rounded before it is asked about, so that more than 8 steps change nothing there.
    """
    asked = Counted(original)
    candidates = pool[random.permutation(len(pool))[: 2 * count]]
    labels = asked(candidates).labels
    first, second = unequal_pairs(labels, count, random)
    v1, v2, told = candidates[first].astype(np.float64), candidates[second].astype(np.float64), labels[first]
    for step in range(1, steps + 1):
        middle = _like((v1 + v2) / 2, pool)
        answers = asked(middle)
        same = (answers.labels == told).reshape(-1, *[1] * (middle.ndim - 1))
        v1, v2 = np.where(same, middle, v1), np.where(same, v2, middle)
        yield Sample(middle, answers, asked.queries, step)


def unequal_pairs(labels: NDArray[np.int64], count: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `count` ordered pairs of rows with different labels, every such pair as likely, with replacement.

    Without rejection: the first row is drawn by how many partners it has, the second among these. Raises NoBoundaryError.
    """
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if len(sizes) < 2:
        raise NoBoundaryError(f"the original gives all {len(labels)} inputs of the pool the same label: choose others")
    partners = len(labels) - sizes
    chosen = random.choice(len(sizes), count, p=sizes * partners / (sizes * partners).sum())
    first = starts[chosen] + random.integers(0, sizes[chosen])
    second = random.integers(0, partners[chosen])  # a place in the order that leaves the first one's class out
    second += np.where(second >= starts[chosen], sizes[chosen], 0)
    return order[first], order[second]


def _like(values: NDArray[np.float64], pool: Inputs) -> Inputs:
    """The same numbers as the pool's kind: whole ones for images."""
    return (np.rint(values) if np.issubdtype(pool.dtype, np.integer) else values).astype(pool.dtype)
