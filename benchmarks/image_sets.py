"""The image sets that benchmarks measure on, as uint8 arrays (n, size, size, 3): one decoder, one resize and one codec for all of them.

JPEG quality 75 is Pillow's default and what CIFAR-10 and Tiny-ImageNet come in; the other sets did not, and a filter that learns a codec
looks brilliant and is worthless. So every image is encoded once more, after the resize, unless `quality` is None.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from models.folders import image_files
from models.manifest import InputSpec
from models.preprocess import fit

QUALITY = 75
SIZE_PX = 32
Split = Literal["train", "test"]
Pixels = NDArray[np.uint8]


def cifar10(
    data: Path, split: Split, count: int | None, random: np.random.Generator, *, size: int = SIZE_PX, quality: int | None = QUALITY
) -> Pixels:
    """`count` images of a split of CIFAR-10, or all of them in a random order."""
    return read(sample(image_files(data / "cifar10" / split), count, random), size=size, quality=quality)


def gtsrb(
    data: Path, split: Split, count: int | None, random: np.random.Generator, *, size: int = SIZE_PX, quality: int | None = QUALITY
) -> Pixels:
    """`count` images of a split of GTSRB, or all of them in a random order."""
    return read(sample(image_files(data / "gtsrb" / split), count, random), size=size, quality=quality)


def tiny_imagenet(
    data: Path,
    classes: Iterable[str],
    count: int | None,
    random: np.random.Generator,
    *,
    size: int = SIZE_PX,
    quality: int | None = QUALITY,
) -> Pixels:
    """`count` Tiny-ImageNet images of `classes` (WordNet ids), or all of them in a random order."""
    return read(sample(tiny_imagenet_files(data, classes), count, random), size=size, quality=quality)


def tiny_imagenet_classes(data: Path) -> list[str]:
    """The classes that are there, as WordNet ids."""
    return sorted(path.name for path in (data / "tiny-imagenet-32" / "train").iterdir() if path.is_dir())


def tiny_imagenet_files(data: Path, classes: Iterable[str]) -> list[Path]:
    """The files of some classes."""
    return [path for name in classes for path in image_files(data / "tiny-imagenet-32" / "train" / name)]


def mnist(
    data: Path, split: Split, count: int | None, random: np.random.Generator, *, size: int = SIZE_PX, quality: int | None = QUALITY
) -> Pixels:
    """`count` MNIST digits, grey in all three channels, or all of them in a random order."""
    raw = data / "mnist" / "MNIST" / "raw" / f"{'train' if split == 'train' else 't10k'}-images-idx3-ubyte"
    digits = np.frombuffer(raw.read_bytes(), dtype=np.uint8, offset=16).reshape(-1, 28, 28)
    chosen = digits[random.permutation(len(digits))[:count]]
    return np.stack([_encoded(Image.fromarray(digit), size, quality) for digit in track(chosen, description="reading MNIST")])


def photo_crops(
    data: Path,
    count: int,
    random: np.random.Generator,
    *,
    size: int = SIZE_PX,
    quality: int | None = QUALITY,
    shares: tuple[float, float] = (0.5, 1.0),
) -> Pixels:
    """`count` random squares of the photographs in turn; a side is one of `shares` (from, to) of the photograph's shorter one."""
    files = image_files(data / "photos")
    crops: list[Pixels] = []
    for at in track(range(min(count, len(files))), description=f"reading {data / 'photos'}"):
        with Image.open(files[at]) as image:
            photo = image.convert("RGB")
        for _ in range(at, count, len(files)):
            side = int(min(photo.size) * random.uniform(*shares))
            left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
            crops.append(_encoded(photo.crop((left, top, left + side, top + side)), size, quality))
    return np.stack(crops)


def sample(files: Sequence[Path], count: int | None, random: np.random.Generator) -> list[Path]:
    """`count` of the files in a random order, or all of them. Raises ValueError where there are too few."""
    if len(files) < (count or 1):
        raise ValueError(f"{len(files)} images where {count or 1} are asked for: see CLONEGUARD_DATA")
    return [files[row] for row in random.permutation(len(files))[:count]]


def read(files: Sequence[Path], *, size: int = SIZE_PX, quality: int | None = QUALITY) -> Pixels:
    """The files' pixels, in their order."""
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for row, path in enumerate(track(files, description=f"reading {files[0].parent.parent}" if files else "")):
        with Image.open(path) as image:
            pixels[row] = _encoded(image, size, quality)
    return pixels


def _encoded(image: Image.Image, size: int, quality: int | None) -> Pixels:
    """An image at its size, after one more JPEG encoding."""
    pixels = fit(image, InputSpec(size=size))
    if quality is None:
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
