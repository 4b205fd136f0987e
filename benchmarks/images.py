"""Request bodies: small JPEGs that differ from each other, from a data folder or made from a seed."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE_PX = 32
QUALITY = 75  # Pillow's default, and that of the CIFAR-10 files


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """Distinct request bodies, and where they are from."""

    images: tuple[bytes, ...]
    source: str


def request_bodies(*, count: int, seed: int) -> Bodies:
    """CIFAR-10's test images in a seeded order if CLONEGUARD_DATA names a data folder, else `count` generated ones."""
    folder = os.environ.get("CLONEGUARD_DATA")
    if folder is None:
        return Bodies(smooth_images(count=count, seed=seed), source=f"{count} smooth random images of {SIZE_PX}x{SIZE_PX}, JPEG {QUALITY}")
    files = sorted(Path(folder, "cifar10", "test").glob("*/*.jpg"))
    if not files:
        raise FileNotFoundError(f"CLONEGUARD_DATA={folder} has no cifar10/test/CLASS/*.jpg")
    order = np.random.default_rng(seed).permutation(len(files))
    return Bodies(tuple(files[row].read_bytes() for row in order), source=f"CIFAR-10 (JPEG), its {len(files)} test images")


def smooth_images(*, count: int, seed: int) -> tuple[bytes, ...]:
    """Colour gradients with a little noise: they compress to about the size of photographs and share no perceptual hash."""
    random = np.random.default_rng(seed)
    images = []
    for grid in random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8):
        smooth = np.asarray(Image.fromarray(grid).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + random.integers(-8, 9, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noisy).save(encoded, "JPEG", quality=QUALITY)
        images.append(encoded.getvalue())
    return tuple(images)
