"""The thief with images of the endpoint's own domain."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attacker_client.attacks.in_distribution import InDistribution, variants

from .scenes import ScriptedBuyer, ShapesPool, scene


@pytest.mark.anyio
async def test_asks_every_image_before_any_variant(tmp_path: Path) -> None:
    """20 images and a budget of 50 are 20 plain queries, then 30 variants, none of which is one of the images."""
    pool, buyer = ShapesPool(20), ScriptedBuyer(budget=50)
    stage = scene(buyer, tmp_path, pool=pool, epochs=1)
    await InDistribution()(stage)
    plain = {image.tobytes() for image in pool.images}
    asked = [image.tobytes() in plain for image in buyer.images]
    assert asked == [True] * 20 + [False] * 30
    assert stage.findings == {"images": 20, "variants": 30}


@pytest.mark.anyio
async def test_a_domain_of_its_own_leaves_the_pool_alone(tmp_path: Path) -> None:
    """With a folder, only its images are asked about."""
    domain, pool = ShapesPool(12, seed=3), ShapesPool(50)
    (tmp_path / "domain").mkdir()
    for number, image in enumerate(domain.images):
        Image.fromarray(image).save(tmp_path / "domain" / f"{number:02}.png")
    buyer = ScriptedBuyer(budget=12)
    await InDistribution(domain=tmp_path / "domain")(scene(buyer, tmp_path / "checkpoints", pool=pool, epochs=1))
    assert {image.tobytes() for image in buyer.images} == {image.tobytes() for image in domain.images}


@pytest.mark.anyio
async def test_images_without_variants_end_the_attack(tmp_path: Path) -> None:
    """A plain image has one variant, itself: what can't be spent is left, and the attack ends."""
    pool, buyer = ShapesPool(2), ScriptedBuyer(budget=10)
    pool.images[:] = np.array([40, 200], np.uint8)[:, None, None, None]
    await InDistribution()(scene(buyer, tmp_path, pool=pool, epochs=1))
    assert len(buyer.fresh) == 2 and buyer.left == 8


def test_variants_are_mild() -> None:
    """A gradient from left to right keeps its values within the crop's share, and about half of the variants are mirrored."""
    ramp = np.tile(np.linspace(0, 240, 16).astype(np.uint8)[None, :, None], (16, 1, 3))
    made = variants(np.stack([ramp] * 200), crop=0.875, rng=np.random.default_rng(0)).astype(np.int64)
    mirrored = made[:, 0, 0, 0] > made[:, 0, -1, 0]
    assert 60 < mirrored.sum() < 140
    straight = np.where(mirrored[:, None, None, None], made[:, :, ::-1], made)
    assert np.abs(straight - ramp).max() <= 0.125 * 240 + 8
