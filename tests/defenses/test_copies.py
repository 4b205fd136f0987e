"""The thief's transforms: near the image, never the image itself, and repeatable."""

import numpy as np
import pytest

from defenses.copies import TRANSFORMS, copies_by, random_copies
from tests.pictures import smooth_noise

IMAGES = np.stack([np.asarray(smooth_noise(seed=seed)) for seed in range(24)])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_copy_is_near_and_not_equal(name: str) -> None:
    """Every copy differs from its original in some pixel, and once flipped back it looks far more like it than like other images."""
    copies = copies_by(name, IMAGES, np.random.default_rng(0))
    assert copies.shape == IMAGES.shape and copies.dtype == np.uint8
    assert all((copy != image).any() for copy, image in zip(copies, IMAGES, strict=True))
    upright = copies[:, :, ::-1] if name == "flip" else copies
    correlation = np.corrcoef(upright.reshape(24, -1), IMAGES.reshape(24, -1))[:24, 24:]
    own, others = np.diag(correlation), correlation[~np.eye(24, dtype=bool)]
    assert own.mean() > np.abs(others).mean() + 0.3


def test_the_generator_decides() -> None:
    """The same seed makes the same copies, another seed others."""
    first, again, other = (random_copies(IMAGES, np.random.default_rng(seed), length=3) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_chains_go_further() -> None:
    """Three transforms in a row move an image further than one, on average."""

    def moved(length: int) -> float:
        return float(np.abs(random_copies(IMAGES, np.random.default_rng(0), length=length).astype(int) - IMAGES).mean())

    assert moved(1) < moved(2) < moved(3)


def test_shifts_bring_in_three_kinds_of_border() -> None:
    """Of a white image, shifts show black edges about a third of the time: the mirrored and the stretched border stay white."""
    white = np.full((300, 32, 32, 3), 255, dtype=np.uint8)
    black = (copies_by("shift", white, np.random.default_rng(0)) == 0).any(axis=(1, 2, 3)).mean()
    assert 0.25 < black < 0.42
