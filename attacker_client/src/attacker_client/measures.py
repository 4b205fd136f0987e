"""How good a clone is: shares of images with their 95% intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]  # (n,)

Z = 1.959964  # 97.5% of a normal distribution lies below


@dataclass(frozen=True, slots=True)
class Measure:
    """A share of n images, and the bounds within which 95% of such samples have the true share."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: int, n: int) -> "Measure":
        """`hits` of n images, with Wilson's score interval (Wilson, 1927):

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), for p = hits / n and z = 1.96.

        It stays within 0 and 1 and is honest for few images and for shares near either end, where p +- z sqrt(p (1 - p) / n) is not
        (Brown, Cai and DasGupta, 2001).
        """
        assert 0 <= hits <= n and n > 0, (hits, n)
        p, square = hits / n, Z**2 / n
        middle, half = p + square / 2, Z * (p * (1 - p) / n + square / (4 * n)) ** 0.5
        return cls(p, max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square)), n)


@dataclass(frozen=True, slots=True)
class ClassMeasures:
    """What is known of one class: images that truly show it; fidelity only where the victim answered about any of them."""

    class_id: int
    name: str
    accuracy: Measure
    fidelity: Measure | None


def agreement(a: Labels, b: Labels) -> Measure:
    """On which share of images two recognizers give the same label; labels (n,) both, n at least 1."""
    assert a.shape == b.shape and a.ndim == 1, (a.shape, b.shape)
    return Measure.of(int((a == b).sum()), len(a))


def accuracy(predicted: Labels, truth: Labels) -> Measure:
    """On which share of images (n,) the label is the true one."""
    return agreement(predicted, truth)


def fidelity(predicted: Labels, told: Labels) -> Measure | None:
    """On which share of the answered images the student says what the victim says; told (n,), -1 where it gave no answer.

    None where it answered about no image at all.
    """
    answered = told >= 0
    return agreement(predicted[answered], told[answered]) if answered.any() else None


def per_class(predicted: Labels, truth: Labels, *, told: Labels, names: Sequence[str]) -> list[ClassMeasures]:
    """The measures of each class that the images (n,) truly show, in the classes' order; `told` as in `fidelity`."""
    assert predicted.shape == truth.shape == told.shape, (predicted.shape, truth.shape, told.shape)
    return [
        ClassMeasures(int(one), names[int(one)], accuracy(predicted[rows], truth[rows]), fidelity(predicted[rows], told[rows]))
        for one in np.unique(truth)
        for rows in [truth == one]
    ]
