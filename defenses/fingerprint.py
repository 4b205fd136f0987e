"""What near-duplicates have in common: a hash of the pixels and a binary code of the embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import imagehash
import numpy as np
import scipy.fftpack  # type: ignore[import-untyped]  # ships no types
import scipy.linalg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

from defenses.vocabulary import Bits, Floats

HASH_SIDE = 8
REDUCED_SIDE = 4 * HASH_SIDE
BAND = 16  # bits; the unit in which stores search codes exactly
DIRECTIONS = 64  # of the embedding; fewer tell too few images apart, more are mostly noise
REFERENCE_CAP = 10_000  # images among which false merges are counted

Arrays = Mapping[str, NDArray[Any]]


def perceptual_hashes(pixels: Bits) -> Bits:
    """Hash a batch of images (n, H, W, 3) to 64 bits each, (n, 8).

    The definition is `imagehash.phash` with its defaults: grey, 32x32, the 8x8 lowest DCT coefficients against their median.
    Images of 32x32 are hashed together, bit for bit the same and several times faster: the grey formula is Pillow's integer one.
    """
    assert pixels.ndim == 4 and pixels.shape[3] == 3, pixels.shape
    if not len(pixels):
        return np.zeros((0, HASH_SIDE * HASH_SIDE // 8), np.uint8)
    if pixels.shape[1:3] != (REDUCED_SIDE, REDUCED_SIDE):
        return np.stack([np.packbits(imagehash.phash(Image.fromarray(image)).hash) for image in pixels])
    wide = pixels.astype(np.uint32)
    grey = ((wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471 + 0x8000) >> 16).astype(np.uint8)
    low_rows = scipy.fftpack.dct(grey, axis=1)[:, :HASH_SIDE]
    low = scipy.fftpack.dct(low_rows, axis=2)[:, :, :HASH_SIDE].reshape(len(grey), -1)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingCode:
    """A binary code of the embedding: near-duplicates differ in few bits, other images in about half of them.

    code = (x - mean) projection > 0. The projection first keeps the directions in which images differ most compared with how much
    copies of one image do, decorrelated and scaled alike, then turns them at random, so that the share of differing bits is
    the angle between two images divided by pi (Charikar, 2002). `radius` is in bits.
    """

    mean: Floats  # (e,)
    projection: Floats  # (e, bits)
    radius: int

    @classmethod
    def fit(
        cls,
        embeddings: Floats,
        *,
        classes: NDArray[np.int64],
        copies: Sequence[Floats] = (),
        bits: int = 256,
        false_merges: float = 2e-4,
    ) -> Self:
        """Learn from embeddings (n, e) and, row by row, those of near-duplicate copies (n, e) of the same images.

        The radius is the largest at which at most a share `false_merges` of the images come within reach of an image of another
        class (n,) among up to 10,000. Of another class, because image sets hold true near-duplicates, and those share their class.
        Merges within a class are several times as many: ask for less than you can bear. Raises ValueError where even equal codes
        merge more than that.
        """
        assert bits % BAND == 0 and 64 <= bits <= 256, bits
        mean = embeddings.mean(axis=0, dtype=np.float64)
        centred = embeddings - mean
        between = centred.T @ centred / len(centred)
        within = np.zeros_like(between)
        for copy in copies:
            moved = (copy - embeddings).astype(np.float64)
            within += moved.T @ moved / (len(moved) * len(copies))
        # the floor keeps directions in which neither images nor copies differ from looking like the best ones
        level = np.trace(within) if copies else np.trace(between)
        within += np.eye(len(within)) * (1e-3 if copies else 1.0) * max(float(level), 1e-12) / len(within)
        strength, axes = scipy.linalg.eigh(between, within)
        best = [i for i in np.argsort(-strength)[:DIRECTIONS] if strength[i] > 1e-9 * strength.max()]
        if not best:
            raise ValueError("all embeddings are equal: there is nothing to tell images apart by")
        directions = axes[:, best] / np.sqrt(strength[best])
        projection = directions @ _rotations(len(best), bits)
        code = cls(mean.astype(np.float32), projection.astype(np.float32), 0)
        return replace(code, radius=_widest_radius(code(embeddings), classes, false_merges))

    def __call__(self, embedding: Floats) -> Bits:
        """Codes (n, bits / 8) of embeddings (n, e)."""
        return np.packbits((embedding - self.mean) @ self.projection > 0, axis=1)

    @property
    def bits(self) -> int:
        """Length of a code."""
        return int(self.projection.shape[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything it learned."""
        return {"mean": self.mean, "projection": self.projection, "radius": np.array(self.radius)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Undo `arrays`."""
        return cls(arrays["mean"], arrays["projection"], int(arrays["radius"]))


def hamming(codes: Bits, others: Bits) -> NDArray[np.int64]:
    """Differing bits of every pair, (n, m), of packed codes (n, bytes) and (m, bytes)."""
    a, b = (np.unpackbits(x, axis=1).astype(np.float32) * 2 - 1 for x in (codes, others))
    return np.asarray((a.shape[1] - np.rint(a @ b.T)) / 2, dtype=np.int64)


def _rotations(directions: int, bits: int) -> NDArray[np.float64]:
    """Random orthogonal blocks (directions, bits): within a block no two bits ask the same question."""
    random = np.random.default_rng(0)
    blocks = [np.linalg.qr(random.normal(size=(directions, directions)))[0] for _ in range(-(-bits // directions))]
    return np.concatenate(blocks, axis=1)[:, :bits]


def _widest_radius(codes: Bits, classes: NDArray[np.int64], false_merges: float) -> int:
    codes, classes = codes[:REFERENCE_CAP], classes[:REFERENCE_CAP]
    bits = 8 * codes.shape[1]
    nearest = []
    for start in range(0, len(codes), 500):
        distances = hamming(codes[start : start + 500], codes)
        distances[classes[start : start + 500, None] == classes] = bits
        nearest.append(distances.min(axis=1))
    # the stores search exactly up to one flipped bit a band
    radii = np.arange(2 * (bits // BAND))
    merged = (np.concatenate(nearest)[:, None] <= radii).mean(axis=0)
    if merged[0] > false_merges:
        raise ValueError(
            f"{merged[0]:.2%} of the images share their code with one of another class: the embedding cannot tell images apart"
        )
    return int(radii[merged <= false_merges].max())
