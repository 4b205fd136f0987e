"""Draw the picture of the README's first query: `python -m tests.draw_ship docs/images/ship.jpg`.

We commit no one else's photographs, so we draw a ship on the sea, with clouds, waves and grain from a seeded generator.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 256
WHITE, NAVY, RUST, GLASS, SMOKE = (228, 228, 223), (38, 42, 60), (130, 40, 35), (70, 80, 95), (35, 35, 40)


def draw_ship(*, seed: int = 0) -> Image.Image:
    """A passenger ship, 256x256 RGB."""
    random = np.random.default_rng(seed)
    picture = Image.fromarray(_pixels(_scenery(random)))
    _ship(ImageDraw.Draw(picture), left=int(random.integers(-12, 13)), waterline=round(0.70 * SIDE) + int(random.integers(-8, 9)))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    return Image.fromarray(_pixels(soft + _texture(random, cell=2, contrast=5)[..., None]))


def _scenery(random: np.random.Generator) -> NDArray[np.float32]:
    down = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
    sky = np.array([150, 185, 225], np.float32) + down * np.array([60, 40, 15], np.float32)
    sky = sky + (_texture(random, cell=64, contrast=18) + _texture(random, cell=24, contrast=8))[..., None]
    sea = np.array([50, 85, 115], np.float32) + (_texture(random, cell=16, contrast=10) + _texture(random, cell=6, contrast=8))[..., None]
    return np.where(np.arange(SIDE)[:, None, None] < round(0.62 * SIDE), sky, sea)


def _ship(draw: ImageDraw.ImageDraw, *, left: int, waterline: int) -> None:
    def at(*points: tuple[int, int]) -> list[tuple[int, int]]:
        return [(x + left, waterline - y) for x, y in points]

    draw.polygon(at((30, 36), (232, 40), (212, 0), (52, 0)), fill=NAVY)
    draw.polygon(at((44, 8), (218, 8), (212, 0), (52, 0)), fill=RUST)
    for deck in ((70, 58, 190, 37), (88, 76, 168, 58), (100, 92, 140, 76)):
        draw.rectangle(at(deck[:2], deck[2:]), fill=WHITE)
    for first, last, y in ((76, 186, 52), (94, 164, 71)):
        for x in range(first, last, 12):
            draw.rectangle(at((x, y), (x + 6, y - 6)), fill=GLASS)
    draw.rectangle(at((146, 104), (164, 76)), fill=(190, 70, 50))
    draw.rectangle(at((146, 104), (164, 98)), fill=SMOKE)
    draw.line(at((118, 122), (118, 92)), fill=(90, 90, 95), width=3)


def _texture(random: np.random.Generator, *, cell: int, contrast: float) -> NDArray[np.float32]:
    """Smooth noise (SIDE, SIDE) with cells of `cell` pixels and a standard deviation of about `contrast` grey levels."""
    coarse = random.normal(0, contrast, (SIDE // cell + 2, SIDE // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _pixels(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(levels, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    draw_ship().save(Path(sys.argv[1]), quality=90)
