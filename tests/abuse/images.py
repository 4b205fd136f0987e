"""Small pictures made from a seed, in the three formats that the server takes."""

import io
from functools import cache

import numpy as np
from PIL import Image

from attacker_client.photographs import PhotographPool

NOISE = 5  # grey levels
MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def picture(seed: int, *, size: int = 48) -> Image.Image:
    """A picture of smooth colours, as near-duplicate search and the recognizer see photographs; no two seeds look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    """The picture as a JPEG, PNG or WEBP file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def _photographs() -> PhotographPool:
    names = ("astronaut", "chelsea", "stereo_motorcycle", "hubble_deep_field", "immunohistochemistry", "retina", "coins", "coffee")
    return PhotographPool((*names, "rocket", "camera", "clock", "page"), 32, seed=0)


def scene(seed: int) -> Image.Image:
    """Two crops of photographs side by side, 32 pixels a side: the embedding takes 50 of 2,000 for another one, of drawn pictures most."""
    left, right = _photographs()[np.array([2 * seed, 2 * seed + 1])]
    return Image.fromarray(np.concatenate([left[:, :16], right[:, 16:]], axis=1))


def near_duplicate(seed: int, number: int) -> bytes:
    """A scene under faint noise, as a JPEG: all numbers of a seed are near-duplicates, and none costs more to decode."""
    pixels = np.asarray(scene(seed), dtype=np.int16)
    noisy = pixels + np.random.default_rng((seed, number)).integers(-NOISE, NOISE + 1, pixels.shape)
    return encode(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)
