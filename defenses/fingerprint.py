"""What near-duplicates have in common: a hash of the pixels and a binary code of the embedding."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import imagehash
import numpy as np
import scipy.fftpack  # type: ignore[import-untyped]  # ships no types
import scipy.linalg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

from defenses.false_merges import FalseMerges
from defenses.vocabulary import Bits, Floats

HASH_SIDE = 8
REDUCED_SIDE = 4 * HASH_SIDE
BAND = 16  # bits; the unit in which stores search codes exactly
DIRECTIONS = 64  # of the embedding; fewer tell too few images apart, more are mostly noise
EMPHASIS = (0.0, 0.25, 0.5)  # powers that take it from the directions that tell images apart best: at a half all count alike
DECORRELATION = (0.0, 0.15, 0.3, 0.45, 0.6)  # powers of the whitening: none leaves most copies alike, 1 leaves no two bits alike
PER_CHANNEL = 5e-4  # share of distinct images; both channels together twice that

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

    code = (x - mean) projection > 0. An embedding with as many numbers as the code has bits was made to be read by its signs: it is
    centred at its medians and more or less decorrelated. Of any other one the directions are kept in which images differ most compared
    with how much copies of one image do, then turned at random, so that the share of differing bits is the angle between two images
    divided by pi (Charikar, 2002). `radius` is in bits.
    """

    mean: Floats  # (e,)
    projection: Floats  # (e, bits)
    radius: int

    @classmethod
    def fit(
        cls, embeddings: Floats, *, copies: Sequence[Floats] = (), references: Floats | None = None, bits: int = 256,
        false_merges: float = PER_CHANNEL,
    ) -> Self:  # fmt: skip
        """Learn from embeddings (n, e) and, row by row, those of near-duplicate copies (k, e) of the first k images.

        Of several projections the one is kept that finds most copies at its radius. That is the widest at which a share of at most
        `false_merges` of distinct images comes within reach of any of 50,000 stored ones (see FalseMerges), as the pairs of
        `references` (m, e) with the embeddings tell: images that the code was not learned from, for it tells those better apart.
        Without any, the pairs of the embeddings. Raises ValueError where even equal codes merge more than that.
        """
        assert bits % BAND == 0 and 64 <= bits <= 256, bits
        best, most = None, -1.0
        for mean, projection in _projections(embeddings, copies, bits):
            code = cls(mean.astype(np.float32), projection.astype(np.float32), 0)
            known = code(embeddings)
            merges = FalseMerges.among(known) if references is None else FalseMerges.among(code(references), known)
            radius = merges.widest_radius(false_merges, most=2 * (bits // BAND) - 1)  # the stores search exactly up to there
            if radius is None:
                continue
            code = replace(code, radius=radius)
            found = code.recall(embeddings, copies) if copies else float(radius)
            if found > most:
                best, most = code, found
        if best is None:
            raise ValueError(
                f"the embedding cannot tell images apart: of distinct images, {merges.shares()[0]:.2%} share their code with one of 50,000"
            )
        return best

    def recall(self, embeddings: Floats, copies: Sequence[Floats]) -> float:
        """The share of copies (k, e) within the radius of the image of their row."""
        known = self(embeddings)
        flipped = [np.unpackbits(known[: len(copy)] ^ self(copy), axis=1).sum(axis=1) for copy in copies]
        return float((np.concatenate(flipped) <= self.radius).mean())

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


def perceptual_radius(hashes: Bits, others: Bits, *, false_merges: float = PER_CHANNEL) -> int:
    """The widest radius of 64-bit hashes (n, 8) against those of other images (m, 8), by the same rule.

    It is 0 where even equal hashes merge more: stores need one.
    """
    bands = 8 * hashes.shape[1] // BAND
    return FalseMerges.among(hashes, others).widest_radius(false_merges, most=2 * bands - 1) or 0


def _projections(embeddings: Floats, copies: Sequence[Floats], bits: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Means (e,) and projections (e, bits) to choose from."""
    if embeddings.shape[1] == bits:
        centred = embeddings - embeddings.mean(axis=0, dtype=np.float64)
        spread, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        spread = np.maximum(spread, 1e-3 * spread.mean())
        for strength in DECORRELATION:
            projection = (axes * spread ** (-strength / 2)) @ axes.T
            undone = (axes * spread ** (strength / 2)) @ axes.T
            yield np.median(embeddings @ projection, axis=0) @ undone, projection
    mean, directions, ratio = _directions(embeddings, copies)
    for emphasis in EMPHASIS:
        yield mean, (directions * ratio**-emphasis) @ _rotations(directions.shape[1], bits)


def _directions(embeddings: Floats, copies: Sequence[Floats]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The mean (e,), the directions (e, k) in which images differ most compared with copies of one, and how much more (k,).

    Along each, copies have the same spread, and no two are correlated.
    """
    mean = embeddings.mean(axis=0, dtype=np.float64)
    centred = embeddings - mean
    between = centred.T @ centred / len(centred)
    within = np.zeros_like(between)
    for copy in copies:
        moved = (copy - embeddings[: len(copy)]).astype(np.float64)
        within += moved.T @ moved / (len(moved) * len(copies))
    # the floor keeps directions in which neither images nor copies differ from looking like the best ones
    level = np.trace(within) if copies else np.trace(between)
    within += np.eye(len(within)) * (1e-3 if copies else 1.0) * max(float(level), 1e-12) / len(within)
    strength, axes = scipy.linalg.eigh(between, within)
    best = [i for i in np.argsort(-strength)[:DIRECTIONS] if strength[i] > 1e-9 * strength.max()]
    if not best:
        raise ValueError("the embedding cannot tell images apart: all are equal")
    return mean, axes[:, best], strength[best]


def _rotations(directions: int, bits: int) -> NDArray[np.float64]:
    """Random orthogonal blocks (directions, bits): within a block no two bits ask the same question."""
    random = np.random.default_rng(0)
    blocks = [np.linalg.qr(random.normal(size=(directions, directions)))[0] for _ in range(-(-bits // directions))]
    return np.concatenate(blocks, axis=1)[:, :bits]
