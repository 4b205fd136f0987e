"""Near-duplicates as a thief makes them, to calibrate the fingerprint with.

Lengths are for images of 32 pixels and grow with the image. What a shift or a turn brings in from outside is mirrored, black or the
border's colour, drawn at random each time.
"""

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from defenses.vocabulary import Bits

Transform = Callable[[Image.Image, Image.Image, np.random.Generator], Image.Image]


FILLS: tuple[Literal["reflect", "constant", "edge"], ...] = ("reflect", "constant", "edge")  # numpy's names; constant is black


def random_copies(images: Bits, random: np.random.Generator, *, length: int = 1) -> Bits:
    """One near-duplicate of each image (n, H, W, 3), every one by `length` different transforms in a row, drawn from `TRANSFORMS`."""
    assert 1 <= length <= len(TRANSFORMS), length
    copies = np.empty_like(images)
    transforms = list(TRANSFORMS.values())
    for row, image in enumerate(images):
        copy, other = Image.fromarray(image), Image.fromarray(images[random.integers(len(images))])
        for kind in random.permutation(len(transforms))[:length]:
            copy = transforms[kind](copy, other, random)
        copies[row] = np.asarray(copy)
    return copies


def copies_by(name: str, images: Bits, random: np.random.Generator) -> Bits:
    """One near-duplicate of each image (n, H, W, 3), all by the same transform of `TRANSFORMS`."""
    others = images[random.permutation(len(images))]
    pairs = zip(images, others, strict=True)
    return np.stack([np.asarray(TRANSFORMS[name](Image.fromarray(image), Image.fromarray(other), random)) for image, other in pairs])


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """The image after one more JPEG encoding at `quality` (1..95)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _recompress(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return recompress(image, int(random.integers(50, 96)))


def _noise(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image)
    noisy = pixels + random.normal(0, random.uniform(1, 8), pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def _brightness(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.2))


def _contrast(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(random.uniform(0.8, 1.2))


def _blur(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.0) * image.width / 32))


def _blend(image: Image.Image, other: Image.Image, random: np.random.Generator) -> Image.Image:
    return Image.blend(image, other, random.uniform(0.05, 0.2))


def _shift(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    reach = image.width // 8
    left, top = reach, reach
    while (left, top) == (reach, reach):  # the image where it was
        left, top = random.integers(0, 2 * reach + 1, 2).tolist()
    return _widened(image, reach, random).crop((left, top, left + image.width, top + image.height))


def _crop(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    cut = random.uniform(image.width / 32, image.width / 8)
    left, top = random.uniform(0, cut, 2)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + image.width - cut, top + image.height - cut))


def _flip(image: Image.Image, _: Image.Image, __: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _rotate(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    reach = image.width // 4
    turned = _widened(image, reach, random).rotate(random.uniform(-10, 10), Image.Resampling.BICUBIC)
    return turned.crop((reach, reach, reach + image.width, reach + image.height))


def _widened(image: Image.Image, reach: int, random: np.random.Generator) -> Image.Image:
    fill = FILLS[random.integers(len(FILLS))]
    return Image.fromarray(np.pad(np.asarray(image), ((reach, reach), (reach, reach), (0, 0)), mode=fill))


TRANSFORMS: dict[str, Transform] = {
    "recompress": _recompress,
    "noise": _noise,
    "brightness": _brightness,
    "contrast": _contrast,
    "blur": _blur,
    "blend": _blend,
    "shift": _shift,
    "crop": _crop,
    "flip": _flip,
    "rotate": _rotate,
}
