"""Raw answers of the bank's models: what every suspect of an original said of the original's samples, in one .npz an original.

Features can be computed from these again without asking anybody. Keys: `labels` and `confidences` (models, samples, count), the original
first and then the `suspects` in their order; the samples are those near the boundary after each of `steps`, and the random one last;
`queries` (samples,) is what the original was asked to get there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.image_sets import Pixels
from defenses.clone_detection.bank import Row, Values
from defenses.clone_detection.features import ALL, compare
from defenses.clone_detection.recognizer import Answers, Recognizer
from defenses.clone_detection.sampling import Sample, boundary_samples, random_sample

STEPS = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The answers about one original's samples; see the module for the arrays."""

    suspects: tuple[str, ...]
    steps: tuple[int, ...]
    queries: NDArray[np.int64]
    labels: NDArray[np.int64]
    confidences: NDArray[np.float64]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as page:
            suspects, steps = (tuple(page[name].tolist()) for name in ("suspects", "steps"))
            return cls(suspects, steps, page["queries"], page["labels"], page["confidences"])

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file, suspects=np.array(self.suspects), steps=np.array(self.steps), queries=self.queries, labels=self.labels,
                confidences=self.confidences,
            )  # fmt: skip
        partial.replace(path)

    def rows(self, original: str) -> list[Row]:
        """The features of every pair."""
        *near, far = (
            # no feature looks at the inputs
            Sample(np.empty((self.labels.shape[2], 0)), self._answers(0, place), int(self.queries[place]), steps)
            for place, steps in enumerate((*self.steps, 0))
        )
        rows = []
        for model, suspect in enumerate(self.suspects, start=1):
            *close, wide = (self._answers(model, place) for place in range(len(self.steps) + 1))
            found = {one.steps: compare(said, wide, near=one, far=far).vector(ALL) for one, said in zip(near, close, strict=True)}
            rows.append(Row(original, suspect, {steps: _values(vector) for steps, vector in found.items()}))
        return rows

    def _answers(self, model: int, sample: int) -> Answers:
        return Answers(self.labels[model, sample], self.confidences[model, sample])


def measured(name: str, original: Recognizer, suspects: Mapping[str, Recognizer], asked: Pixels, *, out: Path, count: int) -> list[Row]:
    """The rows of one original, from answers that are kept; everybody is asked again for other suspects, steps or another `count`."""
    path = out / f"{name}.npz"
    kept = Kept.load(path) if path.exists() else None
    if kept is None or (kept.suspects, kept.steps, kept.labels.shape[2]) != (tuple(sorted(suspects)), STEPS, count):
        kept = _asked(original, {suspect: suspects[suspect] for suspect in sorted(suspects)}, asked, count=count)
        kept.save(path)
    return kept.rows(name)


def _asked(original: Recognizer, suspects: Mapping[str, Recognizer], asked: Pixels, *, count: int) -> Kept:
    """Draw the samples, and ask everybody about them."""
    random = np.random.default_rng(0)
    far = random_sample(original, asked[2 * count :], random=random, count=count)
    path = boundary_samples(original, asked[: 2 * count], random=random, count=count, steps=max(STEPS))
    samples = [*(near for near in path if near.steps in STEPS), far]
    told = [[sample.original for sample in samples], *([suspect(sample.inputs) for sample in samples] for suspect in suspects.values())]
    return Kept(
        suspects=tuple(suspects),
        steps=STEPS,
        queries=np.array([sample.queries for sample in samples]),
        labels=np.array([[answers.labels for answers in row] for row in told]),
        confidences=np.array([[answers.confidences for answers in row] for row in told], dtype=np.float64),
    )


def _values(vector: NDArray[np.float64]) -> Values:
    alpha, beta, gamma, delta = vector.tolist()
    return alpha, beta, gamma, delta
