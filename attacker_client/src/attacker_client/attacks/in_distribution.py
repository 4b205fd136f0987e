"""The honest failure of every filter: a thief who has images of the endpoint's own domain."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from attacker_client.attacks.attack import Pool, Scene
from attacker_client.attacks.standard import buy_rows
from attacker_client.students import Student
from attacker_client.transfer_set import Images, TransferSet


@dataclass(frozen=True, slots=True)
class InDistribution:
    """Ask about unlabelled images of the victim's own domain, and about mild variants of them once each has been asked.

    Atli et al. 2020 name this thief as the one that no out-of-distribution filter can see: his queries look like everybody's. `domain` is
    a folder tree of his images; without it the campaign's pool counts as such. Where they are fewer than the budget, the rest is spent on
    variants: x' = a crop of a `crop` share of the sides at a random place, scaled back, mirrored with probability 1/2. Two variants of an
    image may be one to a filter of near-duplicates, so this is where he can still be stopped.
    """

    summary: ClassVar[str] = "unlabelled images of the victim's own domain, then mild variants of them: no filter tells them from guests"
    domain: Path | None = None  # a folder of images; None is the pool
    crop: float = 0.875  # the smallest share of the sides that a variant keeps

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError("crop is above 0 and at most 1")

    async def __call__(self, scene: Scene) -> Student:
        """Buy the images, spend the rest on variants, fit once."""
        pool = self._pool(scene)
        rng = np.random.default_rng((scene.seed, 6))
        order = rng.permutation(len(pool))
        bought = [await buy_rows(replace(scene, pool=pool), order)]
        barren = 0  # passes that bought nothing new, as plain images give: the same variant again
        while scene.buyer.left and len(order) and barren < 3:
            before = scene.buyer.left
            chunk = rng.permutation(order)[: min(before, 2048)]
            bought.append(await scene.buyer.buy(variants(pool[chunk], crop=self.crop, rng=rng)))
            barren = barren + 1 if scene.buyer.left == before else 0
        scene.findings["images"] = len(bought[0])
        scene.findings["variants"] = sum(len(part) for part in bought[1:])
        return await scene.trainer.fit(TransferSet.joined(bought))

    def _pool(self, scene: Scene) -> Pool:
        if self.domain is None:
            return scene.pool
        from attacker_client.images import folder_pool  # noqa: PLC0415, images.py needs this package's Pool

        return folder_pool(self.domain, size=scene.pool.size)


def variants(images: Images, *, crop: float, rng: np.random.Generator) -> Images:
    """Crop and mirror images (n, S, S, 3) a little: one variant each, of the same size."""
    side = images.shape[1]
    shares = rng.uniform(crop, 1, size=len(images))
    corners = rng.uniform(size=(len(images), 2)) * side * (1 - shares[:, None])
    boxes = np.column_stack([corners, corners + side * shares[:, None]])
    cropped = [
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=tuple(box)))
        for image, box in zip(images, boxes, strict=True)
    ]
    mirrored = rng.random(len(images)) < 0.5
    return np.stack([image[:, ::-1] if mirror else image for image, mirror in zip(cropped, mirrored, strict=True)])
