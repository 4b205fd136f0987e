"""Pictures that we make ourselves: a drawn ship that the bundled recognizer knows, and smooth random ones that nobody knows."""

import io

import numpy as np
from PIL import Image

from tests.draw_ship import draw_ship


def jpeg(image: Image.Image, *, quality: int = 90) -> bytes:
    """A picture as a JPEG file."""
    return _encoded(image, "JPEG", quality=quality)


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    return _encoded(image, "PNG")


def webp(image: Image.Image) -> bytes:
    """A picture as a lossless WebP file."""
    return _encoded(image, "WEBP", lossless=True)


def ship(*, seed: int = 0, size: int = 256) -> Image.Image:
    """A drawn ship; the seed moves clouds, waves and the ship."""
    return draw_ship(seed=seed).resize((size, size), Image.Resampling.BICUBIC)


def smooth_noise(*, seed: int, size: int = 32, cells: int = 6) -> Image.Image:
    """Soft random blobs of colour, `cells` a side: each seed is a picture of its own, and none shows anything."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
