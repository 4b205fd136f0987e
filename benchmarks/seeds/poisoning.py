"""The poisoning attack: found altered neighbourhoods around popular images, so that honest users get wrong answers.

A founder's facts bind all who come near: whether it was flagged, its two best classes, its digest, from which the key decides. Two
thieves, each with at most two queries a target and each knowing the targets to the pixel:

"by answers" knows what the public knows. He sends foreign-looking copies, strong ones first, because the oldest founder in reach of
the target decides and the strongest that still merges is the likeliest to be flagged; where an answer was not the target's class he
believes he succeeded and spends his queries on the others.

"with the bundle" has the recognizer, the filter and the code (they may have leaked), and lacks only the secret. He tries many copies of
each target offline, and sends one that merges, is flagged, and whose target is doubtful; where there is none, one whose best class is
the target's second: that such a founder moves no stranger's close call is checked so. To others he sends nothing: what founds a
neighbourhood in vain protects the target.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.stats import binomtest  # type: ignore[import-untyped]  # ships no types

from app.settings import Settings, read_settings
from benchmarks.image_sets import Pixels
from benchmarks.seeds.fingerprints import Eyes
from benchmarks.seeds.offline import Offline, Seen, deployment
from defenses.copies import TRANSFORMS
from defenses.out_of_distribution.filter import OutOfDistributionFilter

QUERIES_PER_TARGET = 2
STRENGTHS = np.linspace(1.0, 0.1, 8)  # strongest first
RATES = (0.0, 0.1)

Thief = Callable[[Offline, bytes], Awaitable[int]]


class Targets:
    """Targets, and foreign-looking copies of each at every strength and of every kind: what a thief may send."""

    def __init__(self, eyes: Eyes, images: Pixels, foreign: Pixels, random: np.random.Generator) -> None:
        self.eyes, self.count = eyes, len(images)
        rungs = [(disguise, strength) for strength in STRENGTHS for disguise in DISGUISES]
        copies = [
            np.stack([disguise(image, foreign[random.integers(len(foreign))], strength, random) for image in images])
            for disguise, strength in track(rungs, description="disguises")
        ]
        pixels = np.concatenate([images, *copies])
        self.seen = Seen(pixels, eyes.bundle.infer_all(pixels))
        self.rows = np.arange(self.count)

    def copy(self, rung: int) -> NDArray[np.int64]:
        """The rows of all targets' copies on a rung, 0 the strongest."""
        return self.rows + (rung + 1) * self.count

    @property
    def rungs(self) -> int:
        """How many copies there are of each target."""
        return len(STRENGTHS) * len(DISGUISES)

    async def by_answers(self, service: Offline, secret: bytes) -> int:
        """Go down the ladder, two thirds of the way up first, leaving out targets that seem spoilt; returns the queries spent."""
        spent, left, believed = 0, self.count * QUERIES_PER_TARGET, np.zeros(self.count, dtype=bool)
        known = self.seen.outputs.logits[: self.count].argmax(axis=1)
        for rung in np.linspace(self.rungs // 3, self.rungs - 1, 4).astype(int):
            chosen = np.flatnonzero(~believed)[:left]
            case = await service.ask(self.seen, self.copy(rung)[chosen], client="thief", secret=secret)
            believed[chosen] = case.scores.argmax(axis=1) != known[chosen]
            spent, left = spent + len(chosen), left - len(chosen)
            if not left or believed.all():
                break
        return spent

    async def with_bundle(self, service: Offline, secret: bytes) -> int:
        """Send the best copy of each target by everything but the secret; returns the queries spent."""
        chosen = self._best_copies(service)
        if len(chosen):
            await service.ask(self.seen, chosen, client="thief", secret=secret)
        return len(chosen)

    def exposed(self, settings: Settings) -> float:
        """Share of the targets that a flagged founder could spoil at all: doubtful, but not flagged themselves."""
        flagged, doubtful = self._judged(settings)
        return round(float((doubtful & ~flagged)[: self.count].mean()), 4)

    def _judged(self, settings: Settings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        ood = settings.ood
        gate = OutOfDistributionFilter.calibrated(
            self.eyes.calibration, scorer=ood.scorer, benign_fpr=ood.benign_fpr, hysteresis=ood.hysteresis, mode=ood.mode
        )
        score = gate.scorer(logits=self.seen.outputs.logits, features=self.seen.outputs.features)
        return score > gate.threshold, score > gate.doubtful_threshold

    def _best_copies(self, service: Offline) -> NDArray[np.int64]:
        flagged, doubtful = self._judged(service.settings)
        outputs = self.seen.outputs
        best = np.argsort(-outputs.logits, axis=1)[:, :2]
        prints = self.eyes.of_outputs(self.seen.pixels, outputs)
        worth = np.empty((self.rungs, self.count))
        for rung in range(self.rungs):
            rows = self.copy(rung)
            near = self.eyes.near(prints.rows(self.rows), prints.rows(rows))[:, 2]
            spoils = flagged[rows] & doubtful[: self.count]
            swaps = best[rows, 0] == best[: self.count, 1]
            worth[rung] = near * (2 * spoils + swaps)
        chosen = self.rows + (worth.argmax(axis=0) + 1) * self.count
        return np.asarray(chosen[worth.max(axis=0) > 0])


async def poisoning(targets: Targets, *, keys: int) -> list[dict[str, Any]]:
    """One row a rate and thief: what honest users get at the targets, poisoned and not, over `keys` secrets."""
    rows: list[dict[str, Any]] = []
    exposed = targets.exposed(read_settings(profile="balanced"))
    thieves: dict[str, Thief] = {"by answers": targets.by_answers, "with the bundle": targets.with_bundle}
    for rate, name in track([(rate, name) for rate in RATES for name in thieves], description="poisoning"):
        counts = []
        for key in range(keys):
            secret = f"secret {key}".encode()
            clean, clean_labels, _ = await _honest(targets, rate, secret, thief=None)
            poisoned, labels, spent = await _honest(targets, rate, secret, thief=thieves[name])
            unaltered = ~clean & ~poisoned
            counts.append((clean.sum(), poisoned.sum(), ((labels != clean_labels) & unaltered).sum(), spent))
        share = np.array(counts).mean(axis=0) / targets.count
        # the keys share their targets: the interval takes the targets for the only independent part
        interval = binomtest(round(share[1] * targets.count), targets.count).proportion_ci(0.95, method="wilson")
        rows.append(
            {"rate": rate, "thief": name, "targets": targets.count, "queries": round(share[3] * targets.count), "keys": keys}
            | {"altered_unpoisoned": round(share[0], 4), "altered_poisoned": round(share[1], 4)}
            | {"beyond": round(share[1] - share[0], 4), "label_moved_unaltered": round(share[2], 4)}
            | {"beyond_95": [round(interval.low - share[0], 4), round(interval.high - share[0], 4)]}
            | {"exposed": exposed}
        )
    return rows


async def _honest(targets: Targets, rate: float, secret: bytes, *, thief: Thief | None) -> tuple[NDArray[np.bool_], NDArray[np.int64], int]:
    """Whether each target's answer to an honest user is altered, its label, and what the thief spent before."""
    async with deployment(targets.eyes, f"misrecognition.rate={rate}", profile="balanced") as service:
        spent = await thief(service, secret) if thief else 0
        case = await service.ask(targets.seen, targets.rows, client="honest", secret=secret)
    return np.array([bool(reason) for reason in case.reasons]), case.scores.argmax(axis=1), spent


def _noisy(image: Pixels, _: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    return _clipped(image + random.normal(0, 64 * strength, image.shape))


def _blended(image: Pixels, foreign: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    return _clipped((1 - 0.6 * strength) * image + 0.6 * strength * foreign)


def _covered(image: Pixels, foreign: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    side = max(2, round(0.6 * strength * len(image)))
    top, left = random.integers(0, len(image) - side + 1, 2)
    covered = image.copy()
    covered[top : top + side, left : left + side] = foreign[top : top + side, left : left + side]
    return covered


def _changed(image: Pixels, foreign: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    copy, other = Image.fromarray(image), Image.fromarray(foreign)
    names = list(TRANSFORMS)
    for name in random.permutation(names)[: 1 + round(4 * strength)]:
        copy = TRANSFORMS[name](copy, other, random)
    return np.asarray(copy)


def _clipped(values: NDArray[np.float64]) -> Pixels:
    return values.clip(0, 255).round().astype(np.uint8)


DISGUISES: tuple[Callable[[Pixels, Pixels, float, np.random.Generator], Pixels], ...] = (_noisy, _blended, _covered, _changed)
