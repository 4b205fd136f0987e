"""What near-duplicates have in common: a hash of the pixels and a binary code of the embedding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.fftpack  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray
from PIL import Image

from defenses.vocabulary import Bits, Floats

HASH_SIDE = 8
REDUCED_SIDE = 4 * HASH_SIDE
BAND = 16  # bits; the unit in which stores search codes exactly

Arrays = Mapping[str, NDArray[Any]]


def perceptual_hashes(pixels: Bits) -> Bits:
    """Hash a batch of images (n, H, W, 3) to 64 bits each, (n, 8).

    The definition is `imagehash.phash` with its defaults: grey, 32x32, the 8x8 lowest DCT coefficients against their
    median. Computed for the whole batch, bit for bit the same and several times faster: the grey formula is Pillow's
    integer one, and images of another size are reduced by Pillow itself.
    """
    assert pixels.ndim == 4 and pixels.shape[3] == 3, pixels.shape
    if not len(pixels):
        return np.zeros((0, HASH_SIDE * HASH_SIDE // 8), np.uint8)
    if pixels.shape[1:3] == (REDUCED_SIDE, REDUCED_SIDE):
        wide = pixels.astype(np.uint32)
        grey = ((wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471 + 0x8000) >> 16).astype(np.uint8)
    else:
        grey = np.stack([_reduce(image) for image in pixels])
    low_rows = scipy.fftpack.dct(grey, axis=1)[:, :HASH_SIDE]
    low = scipy.fftpack.dct(low_rows, axis=2)[:, :, :HASH_SIDE].reshape(len(grey), -1)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


def _reduce(image: Bits) -> Bits:
    side = (REDUCED_SIDE, REDUCED_SIDE)
    return np.asarray(Image.fromarray(image).convert("L").resize(side, Image.Resampling.LANCZOS))
