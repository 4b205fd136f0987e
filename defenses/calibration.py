"""What a recognizer's outputs look like on its own images: measured offline by `calibrate`, read by the server as `Calibration`."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from defenses.companions import Companions
from defenses.fingerprint import PER_CHANNEL, EmbeddingCode, perceptual_radius
from defenses.out_of_distribution.scorers import SCORERS, Outputs, Scorer, ScorerName
from defenses.out_of_distribution.thresholds import threshold
from defenses.vocabulary import Bits, Floats

QUANTILES = 1001  # of the benign scores: a threshold for every false-positive rate, to a tenth of a percent
RATES = (0.05, 0.02, 0.01, 0.001)
FALSE_MERGES = 2 * PER_CHANNEL  # share of distinct images that may be taken for one of 50,000 stored ones, by either channel
ONE_CLASS: ScorerName = "knn"  # the default scorer where no foreign images are given


class CalibrationError(Exception):
    """A calibration is damaged, or lacks what is asked of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A bundle's calibration: scorers with the quantiles of their scores on benign images, the embedding's code, radii, and companions.

    A bundle that was never calibrated has an empty one. `default_scorer` is the one to trust, or "" if there is none.
    `perceptual_radius` is in bits of the 64-bit hash, None if it was never calibrated. `companions` say which classes follow which, None if
    the calibration is older than they are.
    """

    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    benign: Mapping[str, Floats] = field(default_factory=dict)
    default_scorer: str = ""
    code: EmbeddingCode | None = None
    perceptual_radius: int | None = None
    companions: Companions | None = None

    @classmethod
    def load(cls, source: Path | Mapping[str, NDArray[Any]]) -> Self:
        """Read calibration.npz, or its arrays. Raises CalibrationError when it is damaged; a file that is not there is empty."""
        if isinstance(source, Path):
            if not source.exists():
                return cls()
            try:
                with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                    source = {name: archive[name] for name in archive.files}
            except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
                raise CalibrationError(f"{source} is damaged: {error}") from error
        try:
            names = [name for name in SCORERS if f"ood/{name}/benign" in source]
            return cls(
                scorers={name: SCORERS[name].from_arrays(_under(source, f"ood/{name}/")) for name in names},
                benign={name: source[f"ood/{name}/benign"] for name in names},
                default_scorer=str(source["ood/default"]),
                code=EmbeddingCode.from_arrays(_under(source, "embedding/")) if "embedding/radius" in source else None,
                perceptual_radius=int(source["perceptual/radius"]) if "perceptual/radius" in source else None,
                companions=Companions.from_arrays(_under(source, "companions/")) if "companions/orders" in source else None,
            )
        except KeyError as error:
            raise CalibrationError(f"the calibration is incomplete: {error}") from error

    @property
    def digest(self) -> str:
        """Name the embedding's code, 16 hexadecimal digits: stored codes are comparable under the same name only."""
        if self.code is None:
            return "0" * 16
        return hashlib.sha256(self.code.mean.tobytes() + self.code.projection.tobytes()).hexdigest()[:16]

    def check(self, *, logits: Floats, features: Floats, embedding: Floats) -> None:
        """Try everything on one pass of the recognizer, (n, ...) each. Raises CalibrationError when they don't fit each other."""
        try:
            for scorer in self.scorers.values():
                scorer(logits=logits, features=features)
            if self.code:
                self.code(embedding)
            if self.companions and self.companions.orders.shape != (classes := logits.shape[1], classes):
                raise ValueError(f"companions of {len(self.companions.orders)} classes, not of {classes}")
        except ValueError as error:
            raise CalibrationError(f"the calibration is not of this recognizer ({error}): run cloneguard calibrate again") from error

    def scorer(self, name: str = "auto") -> tuple[str, Scorer]:
        """Find a scorer by name, or the default one. Raises CalibrationError when the bundle was not calibrated with it."""
        chosen = self.default_scorer if name == "auto" else name
        if chosen not in self.scorers:
            known = ", ".join(self.scorers) or "none: run cloneguard calibrate first, or set ood.mode=off"
            raise CalibrationError(f"the bundle is not calibrated for the scorer {name!r} (calibrated: {known})")
        return chosen, self.scorers[chosen]

    def threshold(self, name: str, benign_fpr: float) -> float:
        """Find the score that a share `benign_fpr` of benign images exceeds, under the scorer `name`."""
        return threshold(self.benign[name], benign_fpr)


def calibrate(
    inside: Outputs,
    classes: NDArray[np.int64],
    *,
    held_out: Outputs,
    outside: Outputs | None = None,
    outside_held_out: Outputs | None = None,
    embeddings: Floats | None = None,
    copies: Sequence[Floats] = (),
    references: Floats | None = None,
    hashes: tuple[Bits, Bits] | None = None,
    benign_fpr: float = 0.01,
    false_merges: float = FALSE_MERGES,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Learn everything that calibration.npz holds, and measure it.

    `inside` and `classes` (true or predicted ids, (n,)) are in-distribution images to learn from, best those the recognizer was
    trained on; `held_out` are others, which neither recognizer nor scorers have seen: thresholds rest on them alone. `outside` are
    foreign images to learn from, `outside_held_out` others to measure with: without the first there is no logistic scorer.
    Give both sides of the filter recompressed copies too, or it learns the codec.

    `embeddings` (k, e) and `copies` are those of distinct images and of near-duplicates of the first of them; `references` (m, e) are
    of images the code does not learn from, `hashes` (n, 8) and (m, 8) of two sets: pairs across say how wide the radii may be. An
    embedding that cannot tell images apart gets no code. Returns the arrays and figures: per scorer the share of foreign images
    found at several benign false-positive rates and at `benign_fpr`; the radii, which merge a share of at most `false_merges` of distinct
    images with one of 50,000, half of it by each channel.
    """
    arrays: dict[str, NDArray[Any]] = {}
    found: dict[str, dict[str, float]] = {}
    names = [name for name in SCORERS if name != "logistic" or outside is not None]
    for name in names:
        scorer = SCORERS[name].fit(inside, classes, outside=outside)
        scores = scorer(logits=held_out.logits, features=held_out.features)
        # an observed score, never one in between: no more than the asked-for share of the images lies above it
        benign = np.quantile(scores, np.linspace(0, 1, QUANTILES), method="higher").astype(np.float32)
        arrays |= {f"ood/{name}/{key}": value for key, value in scorer.arrays().items()} | {f"ood/{name}/benign": benign}
        if outside_held_out is not None:
            foreign = scorer(logits=outside_held_out.logits, features=outside_held_out.features)
            rates = sorted({*RATES, benign_fpr}, reverse=True)
            found[name] = {str(rate): round(float((foreign > threshold(benign, rate)).mean()), 4) for rate in rates}
    default = "logistic" if "logistic" in names else ONE_CLASS
    arrays["ood/default"] = np.array(default)
    figures: dict[str, Any] = {"default_scorer": default, "benign_held_out": len(held_out.logits), "found_at_benign_fpr": found}
    arrays |= {f"companions/{key}": value for key, value in Companions.fit(held_out.logits).arrays().items()}
    if hashes is not None:
        radius = perceptual_radius(*hashes, false_merges=false_merges / 2)
        arrays["perceptual/radius"] = np.array(radius)
        figures["perceptual_radius"] = radius
    if embeddings is not None:
        try:
            code = EmbeddingCode.fit(embeddings, copies=copies, references=references, false_merges=false_merges / 2)
        except ValueError as error:
            return arrays, figures | {"no_embedding_code": str(error)}
        arrays |= {f"embedding/{key}": value for key, value in code.arrays().items()}
        figures["embedding_code"] = {
            "bits": code.bits,
            "radius": code.radius,
            "share_of_copies_within_radius": round(code.recall(embeddings, copies), 4) if copies else None,
        }
    return arrays, figures


def _under(source: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in source.items() if name.startswith(prefix)}
