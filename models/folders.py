"""Folders of images: which files count, in which order, and how a recognizer sees them."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.manifest import BundleError, InputSpec
from models.preprocess import fit

FORMATS = ("JPEG", "PNG", "WEBP")  # what the server reads

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth under a folder, links followed, sorted, so that a seed picks the same ones everywhere."""
    paths = (Path(parent) / name for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def read_images(files: Iterable[Path], spec: InputSpec) -> NDArray[np.uint8]:
    """The pixels (n, size, size, 3) of image files. Raises BundleError naming the first that can't be read."""
    images = []
    for path in files:
        try:
            with Image.open(path, formats=FORMATS) as image:
                images.append(fit(image, spec))
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise BundleError(f"{path} cannot be read as an image: remove it from the folder ({error})") from error
    return np.stack(images)


def write_images(folder: Path, images: NDArray[np.uint8]) -> None:
    """Keep images (n, H, W, 3) as numbered PNG files in a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{row:06d}.png", compress_level=1)
