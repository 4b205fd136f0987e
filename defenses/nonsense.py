"""Images that show nothing, as a thief or a scanner makes them, to calibrate the filter with: no photograph teaches it those."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defenses.vocabulary import Bits


def nonsense(n: int, size: int, random: np.random.Generator) -> Bits:
    """Draw n images (n, size, size, 3): blobs, stripes, plain colours and grain, each with its own strength and scale."""
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    kinds = (_blobs, _stripes, _plain, _grain)
    for row in range(n):
        levels = kinds[random.integers(len(kinds))](size, random)
        images[row] = np.clip(levels, 0, 255).astype(np.uint8)
    return images


def _blobs(size: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Coarse random colours, enlarged smoothly or in blocks."""
    cells = int(random.integers(2, 17))
    coarse = (random.random((cells, cells, 3)) * 255).astype(np.uint8)
    rule = Image.Resampling.BICUBIC if random.random() < 0.75 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(coarse).resize((size, size), rule), dtype=np.float64)


def _stripes(size: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A wave of one colour over another, in any direction."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle, waves = random.uniform(0, np.pi), random.uniform(0.3, 8)
    wave = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform(0, 6))[..., None]
    return np.asarray(random.uniform(0, 255, 3) + wave * random.uniform(-128, 128, 3))


def _plain(size: int, random: np.random.Generator) -> NDArray[np.float64]:
    """One colour with a little noise."""
    return np.asarray(random.uniform(0, 255, 3) + random.normal(0, random.uniform(0, 10), (size, size, 3)))


def _grain(size: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Independent pixels, coloured or grey."""
    channels = 3 if random.random() < 0.5 else 1
    return np.asarray(random.uniform(40, 215) + random.normal(0, random.uniform(10, 90), (size, size, channels)) * np.ones(3))
