"""Images without a download: crops of the photographs that ship inside scikit-image.

A crop of a photograph is no image of the victim's domain, but a network's answers to thousands of different crops still say much about it:
edges, textures and colours are common to all photographs.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from attacker_client.transfer_set import Images

BUYING = (
    "astronaut", "chelsea", "stereo_motorcycle", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel", "brick", "grass",
    "moon", "coins", "clock", "page",
)  # fmt: skip
EVALUATION = ("coffee", "rocket", "camera", "gravel")
LENGTH = 200_000  # crops there is no end to, but a pool has one
SMALLEST = 0.12  # side of a crop as a share of the photograph's shorter side
STRETCH = 4 / 3  # at most, of one side against the other
TINT = 0.3  # of a colour channel's brightness
LARGEST = 512  # shorter side in pixels at which a photograph is kept: more costs time and is lost in a crop


class PhotographPool:
    """Random crops of photographs: row i is a pure function of the seed and i, and its class is the number of its photograph.

    A crop's sides are 12% to 100% of the photograph's shorter side and up to 4:3, its place is drawn evenly, half are mirrored.
    Contrast, and brightness of each colour channel, vary by 30%; a third of the crops have their channels exchanged.
    """

    def __init__(self, names: tuple[str, ...], size: int, *, seed: int) -> None:
        assert size >= 1
        self.size = size
        self.classes: NDArray[np.int64] | None = np.arange(LENGTH) % len(names)
        self._photographs = [photograph(name) for name in names]
        self._seed = seed

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        """Crops (k, size, size, 3) of the rows (k,)."""
        images = np.zeros((len(rows), self.size, self.size, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            images[place] = self._crop(row)
        return images

    def _crop(self, row: int) -> Images:
        assert 0 <= row < LENGTH, row
        random = np.random.default_rng((self._seed, row))
        whole = self._photographs[row % len(self._photographs)]
        longer = min(whole.size) * np.exp(random.uniform(np.log(SMALLEST), 0))
        sides = np.array([longer, longer / random.uniform(1, STRETCH)])[random.permutation(2)]
        start = random.uniform(0, np.array(whole.size) - sides)
        box = (start[0], start[1], start[0] + sides[0], start[1] + sides[1])
        crop = np.asarray(whole.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0), np.float32)
        middle = crop.mean()
        pixels = (middle + (crop - middle) * random.uniform(1 - TINT, 1 + TINT)) * random.uniform(1 - TINT, 1 + TINT, 3)
        channels = random.permutation(3) if random.random() < 1 / 3 else np.arange(3)
        columns = slice(None, None, -1 if random.random() < 0.5 else 1)
        drawn: Images = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return drawn[:, columns, channels]


def builtin_pools(size: int, *, seed: int) -> tuple[PhotographPool, PhotographPool]:
    """Crops to buy answers for, and crops of other photographs to measure on."""
    return PhotographPool(BUYING, size, seed=seed), PhotographPool(EVALUATION, size, seed=seed)


@cache
def photograph(name: str) -> Image.Image:
    """A photograph by the name of its function in skimage.data, as RGB."""
    loaded = getattr(data, name)()
    pixels: NDArray[np.uint8] = loaded[0] if isinstance(loaded, tuple) else loaded  # the motorcycle is two views and a map
    image = Image.fromarray(pixels).convert("RGB")
    scale = min(1.0, LARGEST / min(image.size))
    return image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC)
