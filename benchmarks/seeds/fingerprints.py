"""A recognizer's two channels, in bulk: what the near-duplicate stage compares, and within which radii."""

from dataclasses import dataclass, replace
from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from app.opening import UNCALIBRATED_PERCEPTUAL_RADIUS
from benchmarks.image_sets import Pixels
from defenses.calibration import Calibration
from defenses.fingerprint import EmbeddingCode, perceptual_hashes
from models.bundle import Bundle, Outputs

CHANNELS = ("perceptual", "embedding", "either")
CHUNK = 4096  # images


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprints:
    """Both codes of n images, packed: perceptual (n, 8), embedding (n, bits / 8)."""

    perceptual: NDArray[np.uint8]
    embedding: NDArray[np.uint8]

    def rows(self, rows: NDArray[np.int64]) -> Self:
        """Those of some images."""
        return replace(self, perceptual=self.perceptual[rows], embedding=self.embedding[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Eyes:
    """A bundle with its calibration: the fingerprints it takes, and the radii (bits) at which it calls them near."""

    bundle: Bundle
    calibration: Calibration
    code: EmbeddingCode
    perceptual_radius: int

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Read a bundle's calibration. Raises ValueError for a bundle without an embedding code."""
        calibration = Calibration.load(bundle.directory / "calibration.npz")
        if calibration.code is None:
            raise ValueError(f"{bundle.directory}: no embedding code, run cloneguard calibrate first")
        radius = calibration.perceptual_radius
        return cls(bundle, calibration, calibration.code, UNCALIBRATED_PERCEPTUAL_RADIUS if radius is None else radius)

    @property
    def radii(self) -> tuple[int, int]:
        """Perceptual, embedding (bits)."""
        return self.perceptual_radius, self.code.radius

    def of_outputs(self, pixels: Pixels, outputs: Outputs) -> Fingerprints:
        """Fingerprints of images (n, H, W, 3) that the model has seen already."""
        return Fingerprints(perceptual_hashes(pixels), self.code(outputs.embedding))

    def __call__(self, pixels: Pixels) -> Fingerprints:
        """Fingerprints of images (n, H, W, 3), in chunks: only the codes are kept."""
        parts = [pixels[i : i + CHUNK] for i in range(0, len(pixels), CHUNK)]
        codes = [self.of_outputs(part, self.bundle.infer_all(part)) for part in parts]
        return Fingerprints(np.concatenate([c.perceptual for c in codes]), np.concatenate([c.embedding for c in codes]))

    def near(self, one: Fingerprints, other: Fingerprints) -> NDArray[np.bool_]:
        """Whether row by row the two are near-duplicates: (n, 3), a column for each of `CHANNELS`."""
        pairs = ((one.perceptual, other.perceptual), (one.embedding, other.embedding))
        hits = [np.unpackbits(a ^ b, axis=1).sum(axis=1) <= radius for (a, b), radius in zip(pairs, self.radii, strict=True)]
        return np.column_stack([*hits, hits[0] | hits[1]])

    def pairs(self, asked: Fingerprints, stored: Fingerprints) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every pair within reach on a channel: rows of `asked`, rows of `stored`, and the channel (0 or 1); a pair may come twice."""
        found = []
        both = ((asked.perceptual, stored.perceptual), (asked.embedding, stored.embedding))
        for channel, ((mine, theirs), radius) in enumerate(zip(both, self.radii, strict=True)):
            index = faiss.IndexBinaryFlat(8 * theirs.shape[1])
            index.add(np.ascontiguousarray(theirs))
            limits, _, positions = index.range_search(np.ascontiguousarray(mine), radius + 1)  # FAISS's radius is exclusive
            starts: NDArray[np.int64] = limits.astype(np.int64)
            counts = starts[1:] - starts[:-1]
            found.append((np.repeat(np.arange(len(mine)), counts), positions.astype(np.int64), np.full(len(positions), channel)))
        rows, others, channels = (np.concatenate(part) for part in zip(*found, strict=True))
        return rows, others, channels
