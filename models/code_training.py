"""Finish the backbone end to end: few flipped bits for copies, many for the closest of many strangers, and the classes kept."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.backbone import EMBEDDING, Backbone
from models.checkpoints import history_of, restore, save
from models.datasets import recompressed_copies
from models.training import normalise, one_cycle, unit
from models.views import Thief, near_duplicates

THIEF = Thief()
STILL = Thief(share=1, flipped=0.25, shift=0, crop=0, angle=0, brightness=0, contrast=0, noise=1 / 255, blur=0.3 / 32, blend=0.03)
# What moves the features most comes most often: a shift brings in what was not there.
COPIES = (
    *[replace(STILL, shift=THIEF.shift)] * 3,
    replace(STILL, crop=THIEF.crop),
    replace(STILL, blend=THIEF.blend),
    replace(STILL, angle=THIEF.angle),
    Thief(share=0.14, flipped=0.4),
    THIEF,
)


@dataclass(frozen=True, slots=True)
class CodeRecipe:
    """Everything that decides the outcome.

    Each batch is split among `copies`, a thief for each part. Copies should agree beyond `near`, other images, `memory` earlier ones
    among them, less than `far`: both are cosines of squashed codes, 1 - 2 x the share of flipped bits; `softness` is the width of
    either margin. `untouched` is the share of pairs in which one side is the image itself. The squashing sharpens from the first to the
    second of `sharpness`, so that training ends on what are nearly bits. `classification` is the weight of the classes' cross-entropy.
    """

    epochs: int = 14
    batch: int = 256
    copies: tuple[Thief, ...] = COPIES
    recompressed: float = 0.4
    untouched: float = 0.6
    near: float = 0.9
    far: float = 0.45
    softness: float = 0.05
    memory: int = 16_384
    classification: float = 0.5
    sharpness: tuple[float, float] = (2.0, 4.0)
    peak_lr: float = 0.1
    warmup: float = 0.15
    weight_decay: float = 5e-4
    momentum: float = 0.9
    largest_gradient: float = 5.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.998
    seed: int = 0


def fit_code(
    backbone: Backbone, images: NDArray[np.uint8], classes: NDArray[np.int64], recipe: CodeRecipe, checkpoints: Path
) -> list[dict[str, float]]:
    """Train `backbone` on, in place, on images (n, H, W, 3) with class ids (n,) 0..k-1; returns one row an epoch of the three losses.

    Keeps a checkpoint an epoch in `checkpoints`; an interrupted run goes on from there.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = [torch.from_numpy(view) for view in recompressed_copies(images, 1, seed=recipe.seed)]
    network = backbone.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    steps = len(images) // recipe.batch
    total = steps * recipe.epochs
    optimizer, schedule = one_cycle(
        network, peak_lr=recipe.peak_lr, warmup=recipe.warmup, weight_decay=recipe.weight_decay, momentum=recipe.momentum, steps=total
    )
    parts = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = checkpoints / "last.pt"
    history = history_of(last, asdict(recipe))
    if history:
        restore(last, parts)
    start, end = recipe.sharpness
    for epoch in range(len(history), recipe.epochs):
        memory = torch.zeros((0, EMBEDDING), device=device)  # of this epoch: the last one's has copies of what comes now
        random = np.random.default_rng((recipe.seed, epoch))
        losses = []
        drawn = track(_batches(views, classes, recipe, random), total=steps, description=f"code, epoch {epoch + 1}/{recipe.epochs}")
        for step, (pairs, truth) in enumerate(drawn, epoch * steps):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                penultimate, features = network.describe(pairs.to(device).contiguous(memory_format=torch.channels_last))
                logits = network.network.classifier(penultimate)
                numbers = network.projection(features)
            sharpness = start + (end - start) * step / total
            codes = torch.tanh(sharpness * numbers.float()) / network.bits**0.5
            one, other = codes.chunk(2)
            terms = torch.stack(
                [
                    functional.cross_entropy(logits.float(), truth.to(device), label_smoothing=recipe.label_smoothing),
                    *margins(one, other, memory, near=recipe.near, far=recipe.far, softness=recipe.softness),
                ]
            )
            optimizer.zero_grad(set_to_none=True)
            (terms * torch.tensor([recipe.classification, 1.0, 1.0], device=device)).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.largest_gradient)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(network)
            memory = torch.cat([one.detach(), memory])[: recipe.memory]
            losses.append(terms.tolist())
        row = dict(zip(("classification", "copies", "strangers"), np.mean(losses, axis=0).tolist(), strict=True))
        history.append({"epoch": epoch + 1, **row})
        print(json.dumps(history[-1]), flush=True)
        save(last, {name: part.state_dict() for name, part in parts.items()} | {"history": history, "recipe": asdict(recipe)})
    network.load_state_dict(averaged.module.state_dict())
    backbone.cpu().eval()
    return history


def margins(one: Tensor, other: Tensor, memory: Tensor, *, near: float, far: float, softness: float) -> tuple[Tensor, Tensor]:
    """How far copies (row i of both, (n, d)) are from agreeing beyond `near`, and strangers from staying below `far`.

    `memory` (k, d) are strangers too. Softened hinges; of the strangers the closest count most (log-sum-exp): a merge among 50,000 is
    decided by them.
    """
    copies = functional.softplus((near - (one * other).sum(dim=1)) / softness).mean()
    both = torch.cat([one, other])
    same = torch.eye(len(one), dtype=torch.bool, device=one.device).repeat(2, 2)
    similarity = torch.cat([(both @ both.T).masked_fill(same, -torch.inf), both @ memory.T], dim=1)
    closest = torch.logsumexp((similarity - far) / softness, dim=1)
    return copies, functional.softplus(closest).mean()


def _batches(
    views: list[Tensor], classes: NDArray[np.int64], recipe: CodeRecipe, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of normalised pairs, first all the ones (n, 3, H, W), then the others, with the class ids (2n,)."""
    order = random.permutation(len(classes))
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        rows = order[start : start + recipe.batch]
        one, other = (_side(views, rows, recipe, random) for _ in range(2))
        untouched = torch.from_numpy(random.random(len(rows)) < recipe.untouched)
        one = torch.where(untouched.view(-1, 1, 1, 1), unit(views[0][torch.from_numpy(rows)]), one)
        yield normalise(torch.cat([one, other])), torch.from_numpy(classes[rows]).repeat(2)


def _side(views: list[Tensor], rows: NDArray[Any], recipe: CodeRecipe, random: np.random.Generator) -> Tensor:
    recompressed = torch.from_numpy(random.random(len(rows)) < recipe.recompressed).view(-1, 1, 1, 1)
    chosen = torch.from_numpy(rows)
    pixels = torch.where(recompressed, unit(views[1][chosen]), unit(views[0][chosen]))
    parts = np.array_split(random.permutation(len(rows)), len(recipe.copies))
    copies = torch.empty_like(pixels)
    for part, thief in zip(parts, recipe.copies, strict=True):
        copies[part] = near_duplicates(pixels[part], thief, random)
    return copies
