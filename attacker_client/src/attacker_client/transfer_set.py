"""What a thief learns from: images, and what the endpoint said about each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from attacker_client.wire import OracleAnswer

Images = NDArray[np.uint8]  # (n, S, S, 3), RGB
MOST_DECIMALS = 6  # scores are float32


@dataclass(frozen=True, slots=True, eq=False)
class TransferSet:
    """Images and their answers, row by row.

    `labels` are the best classes, as the endpoint numbers them. `scores` are what it told of each class, NaN where it told nothing:
    all of a row where it tells labels only, all but k entries of a top-k answer. `weights` say how much a row counts: 0 for an image that
    got no usable answer.
    """

    images: Images  # (n, S, S, 3)
    labels: NDArray[np.int64]  # (n,)
    scores: NDArray[np.float32]  # (n, classes)
    weights: NDArray[np.float32]  # (n,)

    def __post_init__(self) -> None:
        n = len(self.images)
        assert self.images.ndim == 4 and self.labels.shape == (n,) and self.weights.shape == (n,), self.images.shape
        assert self.scores.ndim == 2 and len(self.scores) == n, self.scores.shape

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        """One more than the highest class id that any answer named."""
        return int(self.scores.shape[1])

    def rows(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Some rows only, in their order."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], scores=self.scores[rows], weights=self.weights[rows])

    def targets(self, *, classes: int | None = None, hard: bool = False) -> NDArray[np.float32]:
        """What a student should answer: a distribution over `classes` a row (n, classes), float32.

        Told scores, and what is left of 1 spread evenly over the classes that were not told; the label alone where no scores were told or
        with `hard`. Rounded scores are scaled to sum to 1.
        """
        width = self.classes if classes is None else classes
        assert width >= self.classes, (width, self.classes)
        scores = np.full((len(self), width), np.nan, np.float32)
        scores[:, : self.classes] = self.scores
        told = ~np.isnan(scores)
        known = np.where(told, np.clip(scores, 0, None), 0)
        untold = width - told.sum(axis=1, keepdims=True)
        rest = np.clip(1 - known.sum(axis=1, keepdims=True), 0, None) / np.maximum(untold, 1)
        soft = np.where(told, known, rest)
        soft /= np.maximum(soft.sum(axis=1, keepdims=True), 1e-12)
        one_hot = np.zeros((len(self), width), np.float32)
        one_hot[np.arange(len(self)), self.labels] = 1
        return np.where(hard | ~told.any(axis=1, keepdims=True), one_hot, soft).astype(np.float32)

    @classmethod
    def told(cls, images: Images, answers: Sequence[OracleAnswer | None], *, classes: int = 0) -> Self:
        """The answers to the first of the images (n, S, S, 3), in their order, None for one that got none; at least `classes` classes."""
        width = max([classes, *(1 + entry.class_id for answer in answers if answer is not None for entry in answer.entries)])
        labels = np.zeros(len(answers), np.int64)
        scores = np.full((len(answers), width), np.nan, np.float32)
        weights = np.zeros(len(answers), np.float32)
        for row, answer in enumerate(answers):
            if answer is not None:
                labels[row], weights[row] = answer.class_id, 1
                _, ids, values = zip(*answer.entries, strict=True)
                scores[row, ids] = values  # None becomes NaN
        return cls(images[: len(answers)], labels, scores, weights)

    @classmethod
    def empty(cls, size: int) -> Self:
        """No images of `size` pixels a side."""
        return cls(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int64), np.zeros((0, 0), np.float32), np.zeros(0, np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other; classes that an earlier part has not met are untold there."""
        width = max(part.classes for part in parts)
        scores = [np.pad(part.scores, ((0, 0), (0, width - part.classes)), constant_values=np.nan) for part in parts]
        return cls(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate(scores),
            np.concatenate([part.weights for part in parts]),
        )


def rounding(scores: NDArray[np.float32]) -> int:
    """The number of decimals to which all scores (n,) are rounded; 6 stands for not rounded, since float32 shows no more."""
    for decimals in range(MOST_DECIMALS):
        scaled = scores.astype(np.float64) * 10**decimals
        if np.abs(scaled - np.rint(scaled)).max() < 1e-6 * 10**decimals:
            return decimals
    return MOST_DECIMALS
