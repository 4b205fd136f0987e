"""The images that recognizers are asked about: a folder's, or crops of the photographs that ship inside scikit-image."""

from pathlib import Path

import numpy as np
from PIL import Image

from app.recognizers.asked import Images
from models.folders import image_files, read_images
from models.manifest import BundleError, InputSpec

BUILTIN = "builtin"
PHOTOGRAPHS = (
    "astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel",
)  # fmt: skip
SMALLEST = 0.1  # side of a crop as a share of the photograph's shorter side


def images_to_ask(named: str, *, count: int, size: int, seed: int) -> Images:
    """`count` images uint8 (n, size, size, 3): `builtin`, or drawn from a folder at any depth. Raises BundleError."""
    random = np.random.default_rng(seed)
    if named == BUILTIN:
        return crops(count, size=size, random=random)
    files = image_files(Path(named))
    if len(files) < count:
        raise BundleError(f"{named} has {len(files)} images, and {count:,} are needed: give more, or ask fewer with --count")
    chosen = [files[at] for at in random.permutation(len(files))[:count]]
    return read_images(chosen, InputSpec(size=size, resize="stretch", crop_fraction=1.0))


def crops(count: int, *, size: int, random: np.random.Generator) -> Images:
    """Random square crops of the photographs, half of them mirrored: natural images that nobody trained on.

    The sides are 10% to 100% of a photograph's shorter one, evenly on a logarithmic scale.
    """
    photographs = _photographs()
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    for place in range(count):
        whole = photographs[random.integers(len(photographs))]
        side = min(whole.size) * float(np.exp(random.uniform(np.log(SMALLEST), 0)))
        left, top = (float(random.uniform(0, length - side)) for length in whole.size)
        crop = np.asarray(whole.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=3.0))
        images[place] = crop[:, ::-1] if random.integers(2) else crop
    return images


def _photographs() -> list[Image.Image]:
    try:
        from skimage import data  # noqa: PLC0415, an extra of its own
    except ImportError as error:
        raise BundleError("the built-in images are scikit-image's: pip install 'cloneguard[detect]', or give a folder") from error
    return [Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB") for name in PHOTOGRAPHS]
