"""Other views of an image, which a student should answer as the endpoint answered the image."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far views may be from the image; zero everywhere is the image itself.

    `shift` and `cutout` are shares of the side, `rotation` degrees to either side, `flip` mirrors half of the views left to right.
    """

    shift: float = 0.0
    rotation: float = 0.0
    flip: bool = False
    cutout: float = 0.0

    def __call__(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        """One view of each of the pixels (n, 3, S, S) in 0..1."""
        if self.shift or self.rotation or self.flip:
            pixels = self._moved(pixels, random)
        if self.cutout:
            pixels = self._cut(pixels, random)
        return pixels

    def _moved(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        n, side = len(pixels), pixels.shape[-1]
        angle = np.radians(random.uniform(-self.rotation, self.rotation, n))
        mirror = np.where(random.random(n) < 0.5 * self.flip, -1.0, 1.0)
        # whole pixels, so that an image that is only shifted stays sharp
        across, down = np.round(random.uniform(-self.shift, self.shift, (2, n)) * side) * 2 / side
        rows = [
            [np.cos(angle) * mirror, -np.sin(angle), across],
            [np.sin(angle) * mirror, np.cos(angle), down],
        ]
        theta = torch.from_numpy(np.array(rows, np.float32).transpose(2, 0, 1).copy()).to(pixels.device)
        grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
        return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _cut(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        """Grey out a square whose centre is anywhere in the image."""
        n, side = len(pixels), pixels.shape[-1]
        hole = max(1, round(self.cutout * side))
        top, left = torch.from_numpy(random.integers(1 - hole, side, (2, n))).to(pixels.device).view(2, n, 1, 1)
        y, x = torch.arange(side, device=pixels.device).view(1, -1, 1), torch.arange(side, device=pixels.device).view(1, 1, -1)
        inside = (y >= top) & (y < top + hole) & (x >= left) & (x < left + hole)
        return pixels.masked_fill(inside.unsqueeze(1), 0.5)
