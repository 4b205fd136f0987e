"""Near-duplicates as a thief makes them."""

import numpy as np
import pytest

from attacker_client.near_duplicates import TRANSFORMS, variants_by, variants_of
from attacker_client.transfer_set import Images


def pictures(n: int, size: int) -> Images:
    """Smooth pictures: coarse colours, enlarged in blocks, with a slope."""
    coarse = np.random.default_rng(3).integers(0, 200, size=(n, 4, 4, 3))
    blocks = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    return (blocks + np.arange(size)[None, :, None, None] * 40 // size).astype(np.uint8)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_every_transform_changes_an_image_but_keeps_its_shape(name: str, size: int) -> None:
    """A near-duplicate has other bytes and the same size, at any size."""
    images = pictures(6, size)
    copies = variants_by(name, images, 255 - images, seed=0)
    assert copies.shape == images.shape and copies.dtype == np.uint8
    assert all((copy != image).any() for copy, image in zip(copies, images, strict=True))


@pytest.mark.parametrize("others", [1, 2])
def test_nothing_is_blended_with_itself(others: int) -> None:
    """An image among few others, or alone, is still blended with something else: its own copy would be bought for nothing."""
    images = pictures(2, 16)[:others]
    for seed in range(10):
        assert (variants_by("blend", images, images, seed=seed) != images).any(axis=(1, 2, 3)).all()


def test_a_near_duplicate_is_nearer_to_its_image_than_other_images_are() -> None:
    """All but the flip leave the coarse picture where it was."""
    images = pictures(8, 32)
    for name in TRANSFORMS:
        if name != "flip":
            copies = variants_by(name, images, images[::-1], seed=1).astype(float)
            distances = np.abs(copies[:, None] - images[None].astype(float)).mean(axis=(2, 3, 4))
            assert (distances.argmin(axis=1) == np.arange(8)).all(), name


def test_variants_come_image_by_image_the_image_itself_first() -> None:
    """Row i * n is image i, and the n - 1 rows after it differ from it and from each other."""
    images = pictures(5, 32)
    copies = variants_of(images, images, variants=9, seed=0).reshape(5, 9, 32, 32, 3)
    assert (copies[:, 0] == images).all()
    assert all(len({copy.tobytes() for copy in group}) == 9 for group in copies)


def test_variants_hang_on_the_image_and_the_seed_alone() -> None:
    """The same image asked in another company has the same variants, so that the ledger knows them; another seed makes others."""
    images = pictures(5, 32)
    together = variants_of(images, images, variants=4, seed=7)
    alone = variants_of(images[3:4], images, variants=4, seed=7)
    assert (together[12:16] == alone).all()
    assert (variants_of(images[3:4], images, variants=4, seed=8)[1:] != alone[1:]).any()


def test_without_mirror_nothing_is_flipped() -> None:
    """A flip is among the variants of an image where it is allowed, and only there."""
    images = pictures(3, 32)

    def flipped(*, mirror: bool) -> list[bool]:
        copies = variants_of(images, images, variants=11, seed=0, mirror=mirror).reshape(3, 11, 32, 32, 3)
        return [any((copy == image[:, ::-1]).all() for copy in group) for group, image in zip(copies, images, strict=True)]

    assert flipped(mirror=True) == [True] * 3
    assert flipped(mirror=False) == [False] * 3
