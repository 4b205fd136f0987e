"""Recognizers of points whose boundaries are known, and banks of pairs drawn from two clouds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.clone_detection.bank import Bank, Model, Row, Values
from defenses.clone_detection.recognizer import Answers, Inputs

ARCHITECTURES = ("round", "square", "flat", "deep")
MIDDLE = (0.5, 0.3, 0.3, 0.4)  # of the independents: alpha, beta, gamma, delta


@dataclass(frozen=True, slots=True)
class Halves:
    """Class 1 right of x = `at` + `wiggle` * sin(12 y), class 0 left; class 2 below y = `floor`.

    Confidence grows with the distance in x.
    """

    at: float = 0.0
    wiggle: float = 0.0
    floor: float = -np.inf
    labels_only: bool = False
    sharpness: float = 1.0

    def __call__(self, inputs: Inputs) -> Answers:
        right = inputs[:, 0] - self.at - self.wiggle * np.sin(12 * inputs[:, 1])
        labels = np.where(inputs[:, 1] < self.floor, 2, right > 0).astype(np.int64)
        return Answers(labels, None if self.labels_only else 1 - np.exp(-self.sharpness * np.abs(right)) / 2)


def square(count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Points uniform in [-1, 1]^2."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2))


def bank(*, apart: float, models: int = 12, seed: int = 0) -> Bank:
    """A bank of `models` independents and two clones of each; features of clones lie `apart` standard deviations from independents'."""
    random = np.random.default_rng(seed)
    known = {f"m{i}": Model(ARCHITECTURES[i % 4]) for i in range(models)}
    known |= {f"c{i}{j}": Model(ARCHITECTURES[(i + j) % 4], clone_of=f"m{i}") for i in range(models) for j in range(2)}
    rows = [Row(f"m{i}", f"m{j}", _drawn(random, 0)) for i in range(models) for j in range(models) if i != j]
    rows += [Row(f"m{i}", f"c{i}{j}", _drawn(random, apart)) for i in range(models) for j in range(2)]
    return Bank("points", {"count": 1_000}, known, tuple(rows))


def _drawn(random: np.random.Generator, apart: float) -> dict[int, Values]:
    """Features that say something after 5 steps, and nothing after 15."""
    found = {}
    for steps, distance in ((5, apart), (15, 0.0)):
        alpha, beta, gamma, delta = (random.normal(MIDDLE, 0.02) + 0.02 * distance * np.array([1, -1, -1, 1])).tolist()
        found[steps] = (alpha, beta, gamma, delta)
    return found
