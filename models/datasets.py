"""Image sets as arrays: a torchvision set by name (downloaded where there is a network) or an ImageFolder."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torchvision import datasets

from models.folders import image_files
from models.manifest import InputSpec
from models.preprocess import fit

TORCHVISION = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "svhn": datasets.SVHN}


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images (N, H, W, 3) uint8 with class ids (N,) int64, the names of the classes, and a group (N,) int64 for each image.

    Images of one group, such as frames of one film, are too alike to be on both sides of a split.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    source: str
    groups: NDArray[np.int64]

    def subset(self, rows: NDArray[np.int64]) -> "ImageSet":
        """The same set, some rows only."""
        return ImageSet(self.images[rows], self.classes[rows], self.names, self.source, self.groups[rows])


def load(name: str, data: Path, split: str, *, size: int, tracks: bool = False) -> ImageSet:
    """Load `split` ("train" or "test") of a set, resized to `size` pixels a side.

    With `tracks`, file names are TRACK_FRAME, and the frames of a track are a group; otherwise every image is its own.

    `data` holds either NAME/SPLIT/CLASS/*.jpg (ImageFolder) or torchvision's own layout, which is downloaded
    when it is absent. Raises ValueError for a name that is neither.
    """
    for folder in (data / name / split, data / split):
        if folder.is_dir():
            return load_folder(folder, size=size, tracks=tracks)
    if name not in TORCHVISION:
        known = ", ".join(sorted(TORCHVISION))
        raise ValueError(f"no folder {data / name / split}, and torchvision has no set called {name!r} here (known: {known})")
    return _load_torchvision(name, data, split, size=size)


def load_folder(folder: Path, *, size: int, tracks: bool = False) -> ImageSet:
    """Load FOLDER/CLASS/* in the order of the sorted names; classes are the sorted folder names."""
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    files = [(path, i) for i, name in enumerate(names) for path in image_files(folder / name)]
    if not files:
        raise ValueError(f"no images under {folder}: expected {folder}/CLASS/*.jpg")
    images = np.stack([read_rgb(path, size) for path, _ in track(files, description=f"reading {folder}")])
    group_names = [(i, path.stem.rpartition("_")[0]) if tracks else row for row, (path, i) in enumerate(files)]
    ids = {name: i for i, name in enumerate(dict.fromkeys(group_names))}
    groups = np.array([ids[name] for name in group_names], dtype=np.int64)
    return ImageSet(images, np.array([i for _, i in files], dtype=np.int64), names, str(folder.name), groups)


def read_rgb(path: Path, size: int) -> NDArray[np.uint8]:
    """One image as (size, size, 3) uint8."""
    with Image.open(path) as image:
        return fit(image, InputSpec(size=size))


def recompress(images: NDArray[np.uint8], qualities: Sequence[int]) -> NDArray[np.uint8]:
    """The same images after one more JPEG encoding each, at its own quality (1..95)."""
    copies = np.empty_like(images)
    for row, (image, quality) in enumerate(zip(images, qualities, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
        copies[row] = np.asarray(Image.open(buffer))
    return copies


def recompressed_copies(images: NDArray[np.uint8], copies: int, *, seed: int) -> list[NDArray[np.uint8]]:
    """The images, and `copies` of them recompressed at random qualities: clients send JPEGs of every quality."""
    qualities = np.random.default_rng((seed, 1)).integers(40, 96, (copies, len(images)))
    return [images, *(recompress(images, q.tolist()) for q in qualities)]


def _load_torchvision(name: str, data: Path, split: str, *, size: int) -> ImageSet:
    if name == "svhn":
        dataset = datasets.SVHN(str(data), split=split, download=True)
        names = tuple(str(digit) for digit in range(10))
    else:
        dataset = TORCHVISION[name](str(data), train=split == "train", download=True)
        names = tuple(dataset.classes)
    pairs = [(fit(image, InputSpec(size=size)), label) for image, label in track(dataset, description=f"reading {name}")]
    classes = np.array([y for _, y in pairs], dtype=np.int64)
    return ImageSet(np.stack([image for image, _ in pairs]), classes, names, name, np.arange(len(pairs)))
