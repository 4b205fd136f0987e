"""What a recognizer's outputs look like on its own images: measured offline by `calibrate`, read by the server as `Calibration`."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from defenses.fingerprint import EmbeddingCode
from defenses.out_of_distribution.scorers import SCORERS, Outputs, Scorer
from defenses.out_of_distribution.thresholds import threshold
from defenses.vocabulary import Floats

QUANTILES = 1001  # of the benign scores: a threshold for every false-positive rate, to a tenth of a percent
RATES = (0.05, 0.02, 0.01, 0.001)


class CalibrationError(Exception):
    """A calibration is damaged, or lacks what is asked of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A bundle's calibration: scorers with the quantiles of their scores on benign images, and the embedding's code.

    A bundle that was never calibrated has an empty one. `default_scorer` is the one to trust, or "" if there is none.
    """

    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    benign: Mapping[str, Floats] = field(default_factory=dict)
    default_scorer: str = ""
    code: EmbeddingCode | None = None

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
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Learn everything that calibration.npz holds, and measure it.

    `inside` and `classes` (true or predicted ids, (n,)) are in-distribution images to learn from, best those the recognizer was
    trained on; `held_out` are others, which neither recognizer nor scorers have seen: thresholds rest on them alone. `outside` are
    foreign images to learn from, `outside_held_out` others to measure with: without the first there is no logistic scorer.
    Give both sides of the filter recompressed copies too, or it learns the codec and flags honest users who compress more.
    `embeddings` (k, e) and `copies` are those of the first k `inside` images and of near-duplicates of them. Returns the arrays and
    figures: per scorer the share of foreign images found at several benign false-positive rates; of the code, its size and radius.
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
            found[name] = {str(rate): round(float((foreign > threshold(benign, rate)).mean()), 4) for rate in RATES}
    # without foreign images nothing here can tell which is best; of those left, energy rests on no training set and does no worse
    default = "logistic" if "logistic" in names else "energy"
    arrays["ood/default"] = np.array(default)
    figures: dict[str, Any] = {"default_scorer": default, "benign_held_out": len(held_out.logits), "found_at_benign_fpr": found}
    if embeddings is not None:
        code = EmbeddingCode.fit(embeddings, classes=classes[: len(embeddings)], copies=copies)
        arrays |= {f"embedding/{key}": value for key, value in code.arrays().items()}
        figures["embedding_code"] = {"bits": code.bits, "radius": code.radius} | _recall(code, embeddings, copies)
    return arrays, figures


def _recall(code: EmbeddingCode, embeddings: Floats, copies: Sequence[Floats]) -> dict[str, float]:
    if not copies:
        return {}
    flipped = np.concatenate([np.unpackbits(code(embeddings) ^ code(copy), axis=1).sum(axis=1) for copy in copies])
    return {"share_of_copies_within_radius": round(float((flipped <= code.radius).mean()), 4)}


def _under(source: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in source.items() if name.startswith(prefix)}
