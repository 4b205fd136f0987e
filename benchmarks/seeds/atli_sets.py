"""Which images the filter of Atli et al. learns from here, and which it is asked about; no image and no photograph is on both sides."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import image_sets
from benchmarks.image_sets import Pixels
from defenses.copies import copies_by, recompress
from defenses.nonsense import nonsense
from models.folders import image_files
from models.tiny_imagenet import KNOWN, unseen_classes

# of the 160 photographs: dogs, birds, deer- and horse-like animals, aeroplanes, cars and trucks, ships; CIFAR-10 has them too
# fmt: off
KNOWN_PHOTOS = frozenset({
    "n01616318", "n01798484", "n01818515", "n01828970", "n01843065", "n01843383", "n01855672", "n02009912", "n02017213",
    "n02086079", "n02086240", "n02090379", "n02091134", "n02093991", "n02094114", "n02096177", "n02100236", "n02102318",
    "n02104365", "n02105251", "n02105505", "n02109047", "n02110063", "n02110806", "n02110958", "n02412080", "n02417914",
    "n02422106", "n02437616", "n02690373", "n02951358", "n03218198", "n03444034", "n03478589", "n03662601", "n03769881",
})
# fmt: on
UNSEEN, OVERLAP = "Tiny-ImageNet, 40 unseen classes", "Tiny-ImageNet, classes that CIFAR-10 knows"
WITH, WITHOUT = "filter", "filter without Tiny-ImageNet"  # the two that are fitted here
CROPS = 20  # of each photograph
TITLES = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB"}
SETS: Mapping[str, Callable[..., Pixels]] = {"cifar10": image_sets.cifar10, "gtsrb": image_sets.gtsrb}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many images: of each side to learn from, of each query set, benign ones (None: the whole test set), in the codec's table."""

    learned: int = 10_000
    queries: int = 3_000
    benign: int | None = None
    codec: int = 1_500


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """Everything for one recognizer, as the files have it: pixels (n, size, size, 3) before the common encoding.

    `outside` holds each filter's foreign training images, `sources` says what they are, `queries` the sets asked about.
    """

    inside: Pixels
    benign: Pixels
    outside: Mapping[str, Pixels]
    sources: Mapping[str, str]
    queries: Mapping[str, Pixels]


def load(name: str, data: Path, sizes: Sizes, random: np.random.Generator, *, size: int) -> Sets:
    """Draw the sets for the recognizer of `name`, "cifar10" or "gtsrb"."""
    other = next(key for key in SETS if key != name)
    names = image_sets.tiny_imagenet_classes(data)
    unseen = unseen_classes(names)
    learned = sorted(set(names) - KNOWN - set(unseen))
    as_is: dict[str, Any] = {"size": size, "quality": None}
    part = sizes.learned // 4
    to_learn, to_ask = photographs(name, data, random, size=size)
    drawn = nonsense(sizes.learned // 10, size, random)
    outside = {
        WITH: (image_sets.tiny_imagenet(data, learned, sizes.learned, random, **as_is), drawn),
        WITHOUT: (
            SETS[other](data, "train", part, random, **as_is),
            image_sets.mnist(data, "train", part, random, **as_is),
            to_learn,
            drawn,
        ),
    }
    return Sets(
        inside=SETS[name](data, "train", sizes.learned, random, **as_is),
        benign=SETS[name](data, "test", sizes.benign, random, **as_is),
        outside={key: np.concatenate(parts) for key, parts in outside.items()},
        sources={
            WITH: f"{len(learned)} other classes of Tiny-ImageNet, nonsense",
            WITHOUT: f"{TITLES[other]} and MNIST training images, crops of half of the photographs, nonsense",
        },
        queries={
            UNSEEN: image_sets.tiny_imagenet(data, unseen, sizes.queries, random, **as_is),
            "MNIST": image_sets.mnist(data, "test", sizes.queries, random, **as_is),
            "crops of photographs": to_ask,
            f"{TITLES[other]} test images": SETS[other](data, "test", sizes.queries, random, **as_is),
        }
        # to the signs these classes are foreign, and the shipped filter learned from them
        | (
            {OVERLAP: image_sets.tiny_imagenet(data, sorted(KNOWN & set(names)), sizes.queries, random, **as_is)}
            if name == "cifar10"
            else {}
        ),
    )


def encoded(images: Pixels, quality: int | None) -> Pixels:
    """Every image as a server decodes it after one more encoding: JPEG at `quality` (1..95), or PNG for None."""
    return np.stack([_reread(Image.fromarray(image), quality) for image in images])


def to_learn_from(images: Pixels, random: np.random.Generator) -> Pixels:
    """Every image in the common encoding, and once more at a quality of its own (50 to 95), so that no codec tells the sides apart."""
    return np.concatenate([encoded(images, image_sets.QUALITY), copies_by("recompress", images, random)])


def _reread(image: Image.Image, quality: int | None) -> Pixels:
    if quality is not None:
        return np.asarray(recompress(image, quality))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return np.asarray(Image.open(buffer))


def photographs(name: str, data: Path, random: np.random.Generator, *, size: int) -> tuple[Pixels, Pixels]:
    """Crops of every other photograph to learn from, and of the rest to ask about, without subjects that the recognizer knows."""
    leave_out = KNOWN_PHOTOS if name == "cifar10" else frozenset()
    files = image_files(data / "photos")
    crops = image_sets.photo_crops(data, CROPS * len(files), random, size=size, quality=None)
    kept = np.array([path.name.split("_")[0] not in leave_out for path in files])
    even = np.arange(len(files)) % 2 == 0
    return crops[np.repeat(kept & even, CROPS)], crops[np.repeat(kept & ~even, CROPS)]
