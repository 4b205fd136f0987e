"""Near-duplicates as a thief makes them, whole batches at a time: what the backbone learns not to see."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Thief:
    """How far each change goes, and which share of the views has it (each drawn by itself, so changes come combined).

    Lengths are shares of the image's side, angles degrees, `noise` a standard deviation in shares of the range.
    """

    share: float = 0.35
    flipped: float = 0.5
    shift: float = 4.5 / 32
    crop: float = 4.5 / 32
    angle: float = 11.0
    brightness: float = 0.25
    contrast: float = 0.25
    noise: float = 9 / 255
    blur: float = 1.1 / 32
    blend: float = 0.2


def near_duplicates(images: Tensor, thief: Thief, random: np.random.Generator) -> Tensor:
    """One near-duplicate each of images (N, 3, H, W) in 0..1, clipped to 0..1.

    Turned, shifted, cropped and mirrored in one resampling; what comes in from outside is black, mirrored or the border's colour.
    """
    n, width = len(images), images.shape[3]
    copies = _moved(images, thief, random)
    others = images[torch.from_numpy(random.permutation(n))]
    weight = _drawn(thief.share, random.uniform(0.03, thief.blend, n), random)
    copies = copies + weight * (others - copies)
    copies = copies * (1 + _drawn(thief.share, random.uniform(-thief.brightness, thief.brightness, n), random))
    grey = copies.mean(dim=(1, 2, 3), keepdim=True)
    copies = grey + (copies - grey) * (1 + _drawn(thief.share, random.uniform(-thief.contrast, thief.contrast, n), random))
    blurred = torch.from_numpy(random.random(n) < thief.share).view(-1, 1, 1, 1)
    copies = torch.where(blurred, _blur(copies, random.uniform(0.3 / 32, thief.blur) * width), copies)
    spread = _drawn(thief.share, random.uniform(1 / 255, thief.noise, n), random)
    copies = copies + spread * torch.from_numpy(random.standard_normal(copies.shape, dtype=np.float32))
    return copies.clamp(0, 1)


def _drawn(share: float, values: NDArray[np.float64], random: np.random.Generator) -> Tensor:
    """`values` (N,) where drawn, else 0, as (N, 1, 1, 1)."""
    return torch.from_numpy(np.where(random.random(len(values)) < share, values, 0).astype(np.float32)).view(-1, 1, 1, 1)


def _moved(images: Tensor, thief: Thief, random: np.random.Generator) -> Tensor:
    n = len(images)
    has_turn, has_crop, has_shift = random.random((3, n)) < thief.share
    angle = np.where(has_turn, np.radians(random.uniform(-thief.angle, thief.angle, n)), 0)
    cut = np.where(has_crop, random.uniform(0, thief.crop, n), 0)
    mirror = np.where(random.random(n) < thief.flipped, -1, 1)
    # where the cut-out lies within the image, and how far the whole moves, in units of half a side
    offset = random.uniform(-1, 1, (2, n)) * cut
    moves = np.round(random.uniform(-thief.shift, thief.shift, (2, n)) * images.shape[3]) / images.shape[3] * 2
    offset += np.where(has_shift, moves, 0)
    scale = 1 - cut
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    theta = np.stack([mirror * cosine, -sine, offset[0], mirror * sine, cosine, offset[1]], axis=1).reshape(n, 2, 3)
    grid = functional.affine_grid(torch.from_numpy(theta.astype(np.float32)), list(images.shape), align_corners=False)
    copies = torch.empty_like(images)
    for rows, mode, padding in zip(
        np.array_split(random.permutation(n), 6),
        ("bilinear", "bicubic") * 3,
        ("reflection", "reflection", "zeros", "zeros", "border", "border"),
        strict=True,
    ):
        copies[rows] = functional.grid_sample(images[rows], grid[rows], mode=mode, padding_mode=padding, align_corners=False)
    return copies


def _blur(images: Tensor, sigma_px: float) -> Tensor:
    reach = max(1, math.ceil(2 * sigma_px))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_px) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)
