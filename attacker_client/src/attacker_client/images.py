"""The images that a thief has: folders, torchvision's sets, and the photographs that come with scikit-image."""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attacker_client.attacks.attack import Pool
from attacker_client.photographs import builtin_pools
from attacker_client.transfer_set import Images

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff"}
HELD_OUT = 0.1  # of a pool's images, kept for measuring
MOST_HELD_OUT = 2_000
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what Pillow raises for files that are no images


class ImagesError(Exception):
    """There are no images to be had: the folder is empty, the set is unknown, or it can't be downloaded."""


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Images to buy answers for, and others to measure on that are never bought for training; `skipped` could not be read so far."""

    buying: Pool
    evaluation: Pool
    skipped: Sequence[str] = ()


def choose(spec: str, *, size: int, seed: int) -> Pools:
    """The pools of `DIR`, `builtin` or `torchvision:NAME`, at `size` pixels a side; raises ImagesError.

    Of a folder or a torchvision set a tenth of the images, at most 2,000, is held out for measuring; `seed` alone says which.
    """
    if spec == "builtin":
        return Pools(*builtin_pools(size, seed=seed))
    if spec.startswith("torchvision:"):
        return _split(torchvision_pool(spec.removeprefix("torchvision:"), size), seed=seed)
    return _split(folder_pool(Path(spec), size), seed=seed)


class ListedPool:
    """Images read one by one when they are asked for, brought to one size.

    An image that can't be read is left out: its row shows the pool's next one that can. `skipped` names what was left out so far.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], Image.Image], *, size: int, classes: NDArray[np.int64] | None) -> None:
        assert classes is None or classes.shape == (len(names),)
        self.size = size
        self.classes = classes
        self.skipped: list[str] = []
        self._names = names
        self._read = read
        self._next: dict[int, int] = {}  # unreadable row -> the row shown instead

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        """Images (k, size, size, 3) of the rows (k,); raises ImagesError where none of the pool can be read."""
        images = np.zeros((len(rows), self.size, self.size, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            images[place] = self._readable(row)
        return images

    def part(self, rows: NDArray[np.int64]) -> "ListedPool":
        """Some rows as a pool of its own; what it can't read is named here too, and nothing of the other rows is shown instead."""
        classes = None if self.classes is None else self.classes[rows]
        some = ListedPool(
            [self._names[row] for row in rows.tolist()], lambda row: self._read(int(rows[row])), size=self.size, classes=classes
        )
        some.skipped = self.skipped
        return some

    def _readable(self, row: int) -> Images:
        for _ in range(len(self)):
            if row not in self._next:
                try:
                    return _pixels(self._read(row), self.size)
                except BROKEN:
                    self.skipped.append(self._names[row])
                    self._next[row] = (row + 1) % len(self)
            row = self._next[row]
        raise ImagesError(f"none of the {len(self)} images can be read, {self._names[0]} for one")


def folder_pool(path: Path, size: int) -> ListedPool:
    """The images at any depth under a folder, sorted by path; each is stretched to a square of `size` pixels.

    Where they lie in several folders, the folder's number in alphabetical order is an image's class. Raises ImagesError for a folder
    without images.
    """
    files = image_files(path)
    folders = sorted({file.parent.name for file in files})
    number = {name: place for place, name in enumerate(folders)}
    classes = np.array([number[file.parent.name] for file in files], np.int64) if len(folders) > 1 else None
    return ListedPool([str(file) for file in files], lambda row: _open(files[row], size), size=size, classes=classes)


def torchvision_pool(name: str, size: int) -> ListedPool:
    """The training images of a set of torchvision.datasets, downloaded at first use; raises ImagesError.

    They are kept in `~/.cache/attacker-client`, or under XDG_CACHE_HOME.
    """
    from torchvision import datasets  # noqa: PLC0415, takes seconds and only these sets need it

    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind):
        raise ImagesError(f"torchvision has no set called {name!r}: CIFAR10, CIFAR100, SVHN, STL10, GTSRB and Food101 are some that it has")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attacker-client"
    offered: dict[str, Any] = {"root": home, "train": True, "split": "train", "download": True}
    options = {option: offered[option] for option in inspect.signature(kind).parameters if option in offered}
    try:
        home.mkdir(parents=True, exist_ok=True)
        images: Any = kind(**options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ImagesError(
            f"torchvision's {name} could not be had ({type(error).__name__}: {error}). Without a network, use builtin"
        ) from error
    targets = getattr(images, "targets", None)
    classes = None if targets is None else np.array(targets, np.int64)
    rows = [f"{name} {row}" for row in range(len(images))]
    return ListedPool(rows, lambda row: images[row][0], size=size, classes=classes)


def labelled_images(path: Path, size: int) -> tuple[Images, list[str], list[str]]:
    """All images of a folder of class folders (n, size, size, 3), each one's folder name, and the files that can't be read.

    Raises ImagesError where there are none.
    """
    images, names, skipped = [], [], []
    for file in image_files(path):
        try:
            images.append(_pixels(_open(file, size), size))
        except BROKEN:
            skipped.append(str(file))
            continue
        names.append(file.parent.name)
    if not images:
        raise ImagesError(f"{path} has no image that can be read")
    return np.stack(images), names, skipped


def image_files(path: Path) -> list[Path]:
    """Image files at any depth under a folder, sorted, so that a seed picks the same ones everywhere; raises ImagesError for none."""
    if not path.is_dir():
        raise ImagesError(f"{path} is not a folder")
    found = (Path(parent) / name for parent, _, names in os.walk(path, followlinks=True) for name in names)
    files = sorted(file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if not files:
        raise ImagesError(f"{path} has no images")
    return files


def _split(pool: ListedPool, *, seed: int) -> Pools:
    if len(pool) < 2:
        raise ImagesError("one image is too few: some are held out for measuring")
    order = np.random.default_rng(seed).permutation(len(pool))
    held_out = min(max(int(HELD_OUT * len(pool)), 1), MOST_HELD_OUT)
    return Pools(buying=pool.part(np.sort(order[held_out:])), evaluation=pool.part(order[:held_out]), skipped=pool.skipped)


def _open(file: Path, size: int) -> Image.Image:
    with Image.open(file) as image:
        image.draft("RGB", (2 * size, 2 * size))  # large JPEGs are decoded at a fraction of their size, which saves most of the time
        image.load()
        return image


def _pixels(image: Image.Image, size: int) -> Images:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))
