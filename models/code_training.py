"""Finish the backbone's second head on frozen features: few flipped bits for copies, many for the closest of many strangers."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from models.backbone import Backbone
from models.datasets import recompressed_copies
from models.training import normalise, unit
from models.views import Thief, near_duplicates

THIEF = Thief()
STILL = Thief(share=1, flipped=0.3, shift=0, crop=0, angle=0, brightness=0, contrast=0, noise=1 / 255, blur=0.3 / 32, blend=0.03)
LIGHT = Thief(share=0.14, flipped=0.3)
# What moves the features most comes most often: a shift brings in what was not there.
COPIES = (
    replace(STILL, shift=THIEF.shift),
    replace(STILL, shift=THIEF.shift),
    replace(STILL, crop=THIEF.crop),
    replace(STILL, blend=THIEF.blend),
    replace(STILL, angle=THIEF.angle),
    LIGHT,
    LIGHT,
    THIEF,
)


@dataclass(frozen=True, slots=True)
class CodeRecipe:
    """Everything that decides the outcome.

    Every image is seen as it is and in copies by each of `copies`. Copies should agree beyond `near`, other images less than `far`: both
    are cosines of squashed codes, 1 - 2 x the share of flipped bits; `softness` is the width of either margin, `strangers` the weight
    of the second. `untouched` is the share of steps in which one side of the pairs is the images themselves. The squashing sharpens
    from the first to the second of `sharpness`, so that training ends on what are nearly bits.
    """

    images: int = 40_000
    copies: tuple[Thief, ...] = COPIES
    untouched: float = 0.7
    steps: int = 1500
    batch: int = 2048
    near: float = 0.87
    far: float = 0.35
    softness: float = 0.06
    strangers: float = 1.0
    sharpness: tuple[float, float] = (1.5, 4.0)
    peak_lr: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


def fit_code(backbone: Backbone, images: NDArray[np.uint8], recipe: CodeRecipe, cache: Path) -> list[dict[str, float]]:
    """Train `backbone.projection` in place on images (n, H, W, 3); returns what the last steps measured.

    Features of all copies are computed once and kept in `cache`, a file that an interrupted run uses again.
    """
    features = _features(backbone, images, recipe, cache)
    views, n = features.shape[:2]
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    head = backbone.projection.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.peak_lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=recipe.steps, pct_start=0.15)
    batch, history = min(recipe.batch, n), []
    for step in track(range(recipe.steps), description="finishing the code"):
        rows = np.sort(random.choice(n, batch, replace=False))
        one, other = (0 if random.random() < recipe.untouched else random.integers(1, views)), random.integers(1, views)
        pair = torch.from_numpy(np.concatenate([features[one][rows], features[other][rows]]).astype(np.float32))
        start, end = recipe.sharpness
        codes = torch.tanh((start + (end - start) * step / recipe.steps) * head(pair)) / backbone.bits**0.5
        halves = codes.chunk(2)
        copies, strangers = margins(halves[0], halves[1], recipe)
        optimizer.zero_grad(set_to_none=True)
        (copies + recipe.strangers * strangers).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        history.append({"copies": copies.item(), "strangers": strangers.item()})
        if step % 100 == 99:
            print(json.dumps({"step": step + 1} | history[-1]), flush=True)
    backbone.eval()
    return history[-50:]


def margins(one: Tensor, other: Tensor, recipe: CodeRecipe) -> tuple[Tensor, Tensor]:
    """How far copies (row i of both, (n, d)) are from agreeing beyond `near`, and strangers from staying below `far`.

    Softened hinges; of the strangers the closest count most (log-sum-exp): a merge among 50,000 is decided by them.
    """
    copies = functional.softplus((recipe.near - (one * other).sum(dim=1)) / recipe.softness).mean()
    similarity = torch.cat([one @ other.T, one @ one.T], dim=1)
    same = torch.eye(len(one), dtype=torch.bool).repeat(1, 2)
    closest = torch.logsumexp(((similarity - recipe.far) / recipe.softness).masked_fill(same, -torch.inf), dim=1)
    return copies, functional.softplus(closest).mean()


@torch.no_grad()
def _features(backbone: Backbone, images: NDArray[np.uint8], recipe: CodeRecipe, cache: Path) -> NDArray[np.float16]:
    """Features (views, n, d) of the images and their copies, computed once."""
    settings = f"{recipe.copies}{recipe.images}{recipe.seed}{len(images)}".encode() + backbone.network.classifier.weight.numpy().tobytes()
    cache = cache.with_stem(f"{cache.stem}-{hashlib.sha256(settings).hexdigest()[:12]}")  # features of others are of no use
    if cache.exists():
        kept: NDArray[np.float16] = np.load(cache, mmap_mode="r")
        return kept
    random = np.random.default_rng((recipe.seed, 2))
    thieves = (None, *recipe.copies)
    images = images[random.permutation(len(images))[: recipe.images]]
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    pages = np.lib.format.open_memmap(partial, "w+", np.float16, (len(thieves), len(images), backbone.described))
    recompressed = recompressed_copies(images, 1, seed=recipe.seed)[1]
    network = backbone.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for start in track(range(0, len(images), 500), description="features of copies"):
        rows = slice(start, start + 500)
        for view, thief in enumerate(thieves):
            pixels = unit(torch.from_numpy((recompressed if view % 3 == 2 else images)[rows]))
            pixels = pixels if thief is None else near_duplicates(pixels, thief, random)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = network.describe(normalise(pixels).contiguous(memory_format=torch.channels_last))[1]
            pages[view, rows] = found.float().numpy()
    pages.flush()
    partial.replace(cache)
    return pages
