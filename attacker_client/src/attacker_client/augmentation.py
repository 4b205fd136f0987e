"""Other views of an image, which a student should answer as the endpoint answered the image."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far views may be from the image; zero everywhere is the image itself.

    `shift` and `cutout` are shares of the side, `zoom` the largest relative change of scale (0.2: by 1/1.2 to 1.2), `rotation` degrees
    to either side, `flip` mirrors half of the views left to right, `brightness`, `contrast` and `saturation` are relative (0.2: +-20%).
    """

    shift: float = 0.0
    zoom: float = 0.0
    rotation: float = 0.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0

    def __call__(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        """One view of each of the pixels (n, 3, S, S) in 0..1."""
        n, device = len(pixels), pixels.device

        def spread(width: float) -> NDArray[np.float32]:
            return random.uniform(-width, width, n).astype(np.float32)

        if self.shift or self.zoom or self.rotation or self.flip:
            pixels = self._moved(pixels, random)
        if self.contrast or self.brightness or self.saturation:
            grey = pixels.mean(dim=1, keepdim=True)
            factors = np.stack([1 + spread(self.saturation), 1 + spread(self.contrast), spread(self.brightness)])
            colour, contrast, brightness = torch.from_numpy(factors).to(device).view(3, n, 1, 1, 1)
            pixels = grey + (pixels - grey) * colour
            pixels = ((pixels - 0.5) * contrast + 0.5 + 0.5 * brightness).clamp(0, 1)
        if self.cutout:
            pixels = self._cut(pixels, random)
        return pixels

    def _moved(self, pixels: Tensor, random: np.random.Generator) -> Tensor:
        n, side = len(pixels), pixels.shape[-1]
        angle = np.radians(random.uniform(-self.rotation, self.rotation, n))
        scale = np.exp(random.uniform(-math.log1p(self.zoom), math.log1p(self.zoom), n))
        mirror = np.where(random.random(n) < 0.5 * self.flip, -1.0, 1.0)
        # whole pixels, so that an image that is only shifted stays sharp
        across, down = np.round(random.uniform(-self.shift, self.shift, (2, n)) * side) * 2 / side
        rows = [
            [scale * np.cos(angle) * mirror, -scale * np.sin(angle), across],
            [scale * np.sin(angle) * mirror, scale * np.cos(angle), down],
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
