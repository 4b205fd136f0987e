"""What a calibration did to the images it was measured with: the figures behind the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta  # type: ignore[import-untyped]  # ships no types

from app.calibration_passes import Passes, Sample
from defenses.calibration import Calibration
from defenses.false_merges import FalseMerges, closest_pairs
from defenses.fingerprint import perceptual_hashes
from defenses.stores.hamming import widest_exact_radius

SHOWN = 10  # example images of a kind
BLANK = 6.0  # standard deviation of the grey levels, 0..255, below which a picture shows nothing
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture, where it came from, and what is to be said about it."""

    image: Pixels
    caption: str


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """One fingerprint channel: its radius, the pairs of own images, and distances (n,) of copies by transform in bits."""

    name: str
    bits: int
    radius: int
    merges: FalseMerges
    copies: Mapping[str, NDArray[np.int64]]
    pairs: tuple[tuple[int, int, int], ...]

    @property
    def setting(self) -> str:
        """The key of the settings' section that overrules the radius."""
        return f"{self.name.split()[0]}_radius"

    @property
    def widest(self) -> int:
        """The widest radius that stores search exactly (bits)."""
        return widest_exact_radius(self.bits // 8)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Scores of held-out images by scorer, own (n,) and foreign (m,); thresholds; channels; examples."""

    default: str
    own: Mapping[str, NDArray[np.float32]]
    foreign: Mapping[str, NDArray[np.float32]]
    thresholds: Mapping[str, float]
    learned: int
    benign_fpr: float
    channels: tuple[Channel, ...]
    no_code: str
    most_foreign: tuple[Example, ...]
    missed: tuple[Example, ...]
    alike: tuple[tuple[str, Example, Example], ...]
    blank: int
    near_copies: int
    false_merges: float

    def found(self, name: str) -> float:
        """Share of the foreign held-out images above the scorer's threshold."""
        return float((self.foreign[name] > self.thresholds[name]).mean())

    def recall(self, transform: str) -> tuple[float, ...]:
        """Share of copies found by each channel, then by any."""
        hits = [channel.copies[transform] <= channel.radius for channel in self.channels]
        return (*(float(hit.mean()) for hit in hits), float(np.any(hits, axis=0).mean()))


def interval(count: int, n: int) -> tuple[float, float]:
    """95% interval of a share of which `count` of `n` were seen (Clopper and Pearson, 1934)."""
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return low, high


def gather(passes: Passes, *, arrays: dict[str, Any], measured: dict[str, Any], benign_fpr: float, false_merges: float) -> Evidence:
    """Score, compare and choose the examples."""
    calibration = Calibration.load(arrays)
    own = _scores(calibration, passes.held_out)
    foreign = _scores(calibration, passes.foreign) if passes.foreign else {}
    thresholds = {name: calibration.threshold(name, benign_fpr) for name in calibration.scorers}
    name = calibration.default_scorer
    farthest = np.argsort(-own[name])[:SHOWN]
    missed = [i for i in np.argsort(foreign[name])[:SHOWN] if foreign[name][i] <= thresholds[name]] if foreign else []
    channels = _channels(calibration, passes)
    files = (*passes.held_out.files, *passes.learned.files)
    images = np.concatenate([passes.held_out.images, passes.learned.images])
    alike = [
        (
            f"{channel.name}: {distance} bits",
            Example(images[first], files[first].name),
            Example(images[second], files[second].name),
        )
        for channel in channels
        for distance, first, second in channel.pairs[:SHOWN]
    ]
    merged = {row for channel in channels for _, *pair in channel.pairs for row in pair}
    return Evidence(
        default=name,
        own=own,
        foreign=foreign,
        thresholds=thresholds,
        learned=len(passes.learned.files),
        benign_fpr=benign_fpr,
        false_merges=false_merges,
        channels=channels,
        no_code=measured.get("no_embedding_code", ""),
        most_foreign=tuple(_example(passes.held_out, i, own[name], thresholds[name]) for i in farthest),
        missed=tuple(_example(passes.foreign, i, foreign[name], thresholds[name]) for i in missed) if passes.foreign else (),
        alike=tuple(alike),
        blank=int((passes.held_out.images[farthest].mean(axis=3).std(axis=(1, 2)) < BLANK).sum()),
        near_copies=len(merged),
    )


def _scores(calibration: Calibration, sample: Sample) -> dict[str, NDArray[np.float32]]:
    outputs = sample.outputs
    return {name: scorer(logits=outputs.logits, features=outputs.features) for name, scorer in calibration.scorers.items()}


def _channels(calibration: Calibration, passes: Passes) -> tuple[Channel, ...]:
    kept = passes.held_out
    codes = {"perceptual hash": perceptual_hashes(np.concatenate([kept.images, passes.learned.images]))}
    copies = {"perceptual hash": {name: perceptual_hashes(images) for name, (images, _) in passes.probes.items()}}
    radii = {"perceptual hash": calibration.perceptual_radius or 0}
    if code := calibration.code:
        codes["embedding code"] = code(np.concatenate([kept.outputs.embedding, passes.learned.outputs.embedding]))
        copies["embedding code"] = {name: code(embedding) for name, (_, embedding) in passes.probes.items()}
        radii["embedding code"] = code.radius
    channels = []
    for name, of_all in codes.items():
        distances = {
            transform: np.unpackbits(of_all[: len(of_copies)] ^ of_copies, axis=1).sum(axis=1).astype(np.int64)
            for transform, of_copies in copies[name].items()
        }
        pairs = tuple(closest_pairs(of_all, within=radii[name], most=1_000))
        channels.append(
            Channel(
                name,
                8 * of_all.shape[1],
                radii[name],
                FalseMerges.among(of_all[: len(kept.files)][passes.distinct], of_all[len(kept.files) :]),
                distances,
                pairs,
            )
        )
    return tuple(channels)


def _example(sample: Sample, row: int, scores: NDArray[np.float32], threshold: float) -> Example:
    verdict = "flagged" if scores[row] > threshold else "passes"
    return Example(sample.images[row], f"{sample.files[row].name}: {verdict}")
