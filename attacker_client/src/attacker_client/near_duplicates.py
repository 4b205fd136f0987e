"""Variants of an image as a thief makes them: the same to the eye, other bytes (Kinbara et al., PRMU2019-94; transforms are our choice).

Lengths are for images of 32 pixels and grow with the image. What a shift or a turn brings in from outside is mirrored.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from attacker_client.transfer_set import Images

Transform = Callable[[Image.Image, Image.Image, np.random.Generator], Image.Image]
"""An image and another one to blend with, both of one size, to a near-duplicate of the first."""


def variants_of(images: Images, others: Images, *, variants: int, seed: int, mirror: bool = True) -> Images:
    """Give every image and `variants` - 1 near-duplicates of it, image by image: (n * variants, S, S, 3), each image before its own.

    Every near-duplicate is by one transform; an image's are by different ones as long as there are enough. They hang on the image's
    pixels and the seed alone, not on what else is asked, so that asking again finds the answers in the ledger. `others` are to be blended
    with. Without `mirror` none is flipped: a flipped traffic sign is another sign.
    """
    assert variants >= 1 and len(others) > 0, (variants, len(others))
    names = [name for name in TRANSFORMS if mirror or name != "flip"]
    copies = np.repeat(images, variants, axis=0)
    for row, image in enumerate(images):
        random = np.random.default_rng([seed, *hashlib.sha256(image.tobytes()).digest()])
        kinds = [names[k] for k in random.permutation(len(names))]
        for variant in range(1, variants):
            transform = TRANSFORMS[kinds[(variant - 1) % len(kinds)]]
            other = _partner(image, others, random)
            copies[row * variants + variant] = np.asarray(transform(Image.fromarray(image), other, random))
    return copies


def variants_by(name: str, images: Images, others: Images, *, seed: int) -> Images:
    """Give one near-duplicate of each image (n, S, S, 3), all by the same transform of `TRANSFORMS`."""
    random = np.random.default_rng([seed, *name.encode()])
    made = [np.asarray(TRANSFORMS[name](Image.fromarray(image), _partner(image, others, random), random)) for image in images]
    return np.stack(made) if made else images


def _partner(image: NDArray[np.uint8], others: Images, random: np.random.Generator) -> Image.Image:
    """One of the others to blend with, or the negative if all are the image itself: blended with itself it would be no variant."""
    first = int(random.integers(len(others)))
    different = (other for other in (*others[first:], *others[:first]) if (other != image).any())
    return Image.fromarray(next(different, 255 - image))


def _shift(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    reach = max(1, image.width // 8)
    left, top = reach, reach
    while (left, top) == (reach, reach):  # the image where it was
        left, top = random.integers(0, 2 * reach + 1, 2).tolist()
    return _widened(image, reach).crop((left, top, left + image.width, top + image.height))


def _crop(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    cut = random.uniform(image.width / 32, image.width / 8)
    left, top = random.uniform(0, cut, 2)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + image.width - cut, top + image.height - cut))


def _flip(image: Image.Image, _: Image.Image, __: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _rotate(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    reach = max(1, image.width // 4)
    angle = random.choice([-1, 1]) * random.uniform(2, 10)
    turned = _widened(image, reach).rotate(float(angle), Image.Resampling.BICUBIC)
    return turned.crop((reach, reach, reach + image.width, reach + image.height))


def _brightness(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_strength(random))


def _contrast(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(_strength(random))


def _recompress(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(random.integers(50, 96)))
    return Image.open(buffer).convert("RGB")


def _noise(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image)
    noisy = pixels + random.normal(0, random.uniform(1, 8), pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def _blur(image: Image.Image, _: Image.Image, random: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.0) * image.width / 32))


def _blend(image: Image.Image, other: Image.Image, random: np.random.Generator) -> Image.Image:
    return Image.blend(image, other, random.uniform(0.05, 0.1))


def _strength(random: np.random.Generator) -> float:
    """A factor 0.8..0.95 or 1.05..1.2."""
    return float(1 + random.choice([-1, 1]) * random.uniform(0.05, 0.2))


def _widened(image: Image.Image, reach: int) -> Image.Image:
    return Image.fromarray(np.pad(np.asarray(image), ((reach, reach), (reach, reach), (0, 0)), mode="reflect"))


TRANSFORMS: dict[str, Transform] = {
    "shift": _shift,
    "crop": _crop,
    "flip": _flip,
    "rotate": _rotate,
    "brightness": _brightness,
    "contrast": _contrast,
    "recompress": _recompress,
    "noise": _noise,
    "blur": _blur,
    "blend": _blend,
}
