"""The 36 pairs of one set and seed (Mori et al.), measured: 12 ordered pairs of originals, and 4 originals with 6 clones each.

Pairs for the bisection and points at random are uniform in the square. One bisection of 15 steps serves every smaller number of steps. A
measured pair is kept in a file of its own, so that an interrupted run goes on.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.seeds.mori_features import Features, SetName
from benchmarks.seeds.mori_recognizers import CLONE_KINDS, KINDS, LEARNED, STRATEGIES, Fitted, Kind, Strategy, clone, original, uniform
from defenses.clone_detection.features import compare
from defenses.clone_detection.recognizer import Recognizer
from defenses.clone_detection.sampling import COUNT, Sample, boundary_samples, random_sample

STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 15)

Triple = tuple[float, float, float]  # alpha, beta, gamma


@dataclass(frozen=True, slots=True)
class Which:
    """One pair: kinds of the original and the suspect; `strategy` is how the suspect was cloned from this original, None if it was not."""

    original: Kind
    suspect: Kind
    strategy: Strategy | None

    @property
    def name(self) -> str:
        """For files and logs."""
        return f"{self.original}-{self.suspect}-{self.strategy or 'unrelated'}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A measured pair: its features after each number of bisection steps."""

    set: SetName
    seed: int
    which: Which
    features: Mapping[int, Triple]

    @property
    def clone(self) -> bool:
        """Whether the suspect is one."""
        return self.which.strategy is not None

    @property
    def name(self) -> str:
        """The same for every seed."""
        return f"{self.set}, {self.which.name}"


@dataclass(frozen=True, slots=True)
class Size:
    """How much: points that recognizers learn from, points of a sample, and numbers of steps."""

    learned: int = LEARNED
    count: int = COUNT
    steps: tuple[int, ...] = STEPS


TABLE_I = (Which("SVM", "RF", None), Which("SVM", "k-NN", "a"), Which("SVM", "RF", "b"))
UNRELATED = tuple(Which(one, other, None) for one in KINDS for other in KINDS if one != other)
CLONES = tuple(Which(one, kind, strategy) for one in KINDS for kind in CLONE_KINDS for strategy in STRATEGIES)
# those of Table I and the quick ones first
ALL = tuple(sorted(UNRELATED + CLONES, key=lambda which: (which not in TABLE_I, "MLP" in (which.original, which.suspect))))


def measured(
    name: SetName, seed: int, wanted: tuple[Which, ...], features: Callable[[], Features], *, out: Path, size: Size
) -> Iterator[Pair]:
    """Measure the pairs that `out` does not hold yet, and yield all that are wanted; `features` are made only if they are needed."""
    folder = out / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)

    @cache
    def made() -> Features:
        return features()

    @cache
    def an_original(kind: Kind) -> Fitted:
        return original(kind, made().points, made().classes, seed=seed, kept=folder / f"{kind}.pickle", learned=size.learned)

    @cache
    def samples(kind: Kind) -> tuple[Mapping[int, Sample], Sample]:
        return _samples(an_original(kind), np.random.default_rng((seed, 1, KINDS.index(kind))), size)

    for which in wanted:
        kept = folder / f"{which.name}.json"
        if not kept.exists():
            if which.strategy is None:
                suspect = an_original(which.suspect)
            else:
                random = np.random.default_rng((seed, 2, CLONES.index(which)))
                model = folder / f"{which.name}.pickle"
                suspect = clone(an_original(which.original), which.suspect, which.strategy, random=random, kept=model, learned=size.learned)
            found = _features(suspect, *samples(which.original))
            partial = kept.with_suffix(".partial")
            partial.write_text(json.dumps({str(steps): triple for steps, triple in found.items()}) + "\n", encoding="utf-8")
            partial.replace(kept)
        read: dict[str, Any] = json.loads(kept.read_bytes())
        yield Pair(name, seed, which, {int(steps): (triple[0], triple[1], triple[2]) for steps, triple in read.items()})


def _samples(recognizer: Recognizer, random: np.random.Generator, size: Size) -> tuple[Mapping[int, Sample], Sample]:
    """The original's samples near its boundary by steps, and the one at random."""
    path = boundary_samples(recognizer, uniform(2 * size.count, random), random=random, count=size.count, steps=max(size.steps))
    near = {steps: sample for steps, sample in enumerate(path, start=1) if steps in size.steps}
    return near, random_sample(recognizer, uniform(size.count, random), random=random, count=size.count)


def _features(suspect: Recognizer, near: Mapping[int, Sample], far: Sample) -> dict[int, Triple]:
    """A suspect's features after each number of steps."""
    found: dict[int, Triple] = {}
    wide = suspect(far.inputs)
    for steps, sample in near.items():
        alpha, beta, gamma = compare(suspect(sample.inputs), wide, near=sample, far=far).vector().tolist()
        found[steps] = (alpha, beta, gamma)
    return found
