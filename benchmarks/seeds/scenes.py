"""Images to ask about and images that are stored already, from each set, with what they have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.image_sets import Pixels, photo_crops, read, tiny_imagenet_classes, tiny_imagenet_files
from models.folders import image_files
from models.tiny_imagenet import unseen_classes


@dataclass(frozen=True, slots=True)
class Size:
    """How many images: asked about, stored, and copied under each transform."""

    asked: int = 10_000
    stored: int = 50_000
    copied: int = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Pixels (n, 32, 32, 3), the names, the classes and the groups of n images.

    Images of one group (frames of one track, crops of one photograph) are near-duplicates by nature: to merge them is no mistake.
    """

    pixels: Pixels
    names: tuple[str, ...]
    classes: NDArray[np.str_]
    groups: NDArray[np.str_]

    @classmethod
    def of_files(cls, files: Sequence[Path], *, tracks: bool = False) -> Self:
        """Read CLASS/NAME files; with `tracks`, names are TRACK_FRAME."""
        names = tuple(f"{path.parent.name}/{path.name}" for path in files)
        groups = [name.rpartition("_")[0] if tracks else name for name in names]
        return cls(read(files), names, np.array([path.parent.name for path in files]), np.array(groups))


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A set's images to ask about, and those that are stored; where they are the same images, `asked` are its first rows."""

    asked: Images
    stored: Images
    same: bool = False


def scenes(data: Path, size: Size, *, seed: int) -> dict[str, Callable[[], Scene]]:
    """Every set by its title, read when it is called for."""

    def shuffled(files: Sequence[Path]) -> list[Path]:
        return [files[row] for row in np.random.default_rng(seed).permutation(len(files))]

    @cache  # the photographs' crops are stored among the same images
    def tiny() -> Scene:
        classes = tiny_imagenet_classes(data)
        unseen = unseen_classes(classes)
        foreign = shuffled(tiny_imagenet_files(data, unseen))
        asked = foreign[: min(size.asked, len(foreign) // 2)]
        rest = foreign[len(asked) :][: size.stored // 5]  # the rest of the 40 classes, and four times as many of learned ones
        learned = shuffled(tiny_imagenet_files(data, [name for name in classes if name not in set(unseen)]))
        return Scene(Images.of_files(asked), Images.of_files(rest + learned[: size.stored - len(rest)]))

    def cifar10() -> Scene:
        test, train = (shuffled(image_files(data / "cifar10" / split)) for split in ("test", "train"))
        return Scene(Images.of_files(test[: size.asked]), Images.of_files(train[: size.stored]))

    def gtsrb() -> Scene:
        """Frames of the training tracks, the only ones whose tracks are known: the code learned from most of them."""
        frames = Images.of_files(shuffled(image_files(data / "gtsrb" / "train"))[: size.stored], tracks=True)
        few = Images(frames.pixels[: size.asked], frames.names[: size.asked], frames.classes[: size.asked], frames.groups[: size.asked])
        return Scene(few, frames, same=True)

    def photos() -> Scene:
        files = image_files(data / "photos")
        count = min(size.copied, 20 * len(files))
        pixels = photo_crops(data, count, np.random.default_rng(seed))
        # crops come photograph by photograph, as many of the first ones as of the last, or one more
        owners = [path.name for at, path in enumerate(files) for _ in range(at, count, len(files))]
        names = tuple(f"{owner} crop {row}" for row, owner in enumerate(owners))
        crops = Images(pixels, names, np.array(owners), np.array(owners))
        others = tiny().stored
        stored = Images(
            np.concatenate([crops.pixels, others.pixels]), crops.names + others.names,
            np.concatenate([crops.classes, others.classes]), np.concatenate([crops.groups, others.groups]),
        )  # fmt: skip
        return Scene(crops, stored, same=True)

    return {"Tiny-ImageNet": tiny, "GTSRB": gtsrb, "photographs' crops": photos, "CIFAR-10": cifar10}
