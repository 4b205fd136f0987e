"""What clone detection knows of a recognizer: inputs in, labels and perhaps confidences out, and what each input cost."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Inputs = NDArray[Any]  # (n, ...): images uint8 (n, height, width, 3), or points float (n, d)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a recognizer said of n inputs: `labels` (n,) int64, `confidences` (n,) in [0, 1] or None where it tells labels only.

    The same classes have the same numbers in both recognizers of a pair: whoever adapts a recognizer sees to that.
    """

    labels: NDArray[np.int64]
    confidences: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        assert self.labels.ndim == 1, self.labels.shape
        if self.confidences is not None:
            assert self.confidences.shape == self.labels.shape, (self.confidences.shape, self.labels.shape)
            # a hair of rounding is forgiven; NaN is not
            assert ((self.confidences >= -1e-6) & (self.confidences <= 1 + 1e-6)).all(), "confidences are in [0, 1]"

    def __getitem__(self, rows: NDArray[Any]) -> Self:
        """The answers to some of the inputs, chosen as an array is indexed."""
        return type(self)(self.labels[rows], None if self.confidences is None else self.confidences[rows])

    @classmethod
    def joined(cls, one: Self, other: Self) -> Self:
        """Two batches as one; labels only, unless both have confidences."""
        both = None
        if one.confidences is not None and other.confidences is not None:
            both = np.concatenate([one.confidences, other.confidences])
        return cls(np.concatenate([one.labels, other.labels]), both)


class Recognizer(Protocol):
    """f = (f_L, f_S): a label and a confidence for every input (Mori, Nakamura, Nitta, Babaguchi)."""

    def __call__(self, inputs: Inputs) -> Answers:
        """Answer a batch (n, ...), one query an input."""
        ...


class Counted:
    """A recognizer that counts its queries: an input asked twice counts twice."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer, self.queries = recognizer, 0

    def __call__(self, inputs: Inputs) -> Answers:
        """Ask, then count: a batch that raised was not answered."""
        answers = self._recognizer(inputs)
        assert len(answers.labels) == len(inputs), (len(answers.labels), len(inputs))
        self.queries += len(inputs)
        return answers
