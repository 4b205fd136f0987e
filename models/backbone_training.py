"""Train the backbone for two uses at once: to tell classes apart, and to recognise one picture under a thief's changes."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.backbone import EMBEDDING, Backbone
from models.checkpoints import history_of, restore, save
from models.datasets import ImageSet, recompressed_copies
from models.training import normalise, one_cycle, unit
from models.views import Thief, near_duplicates


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome.

    `recompressed` is the share of images drawn as one of `copies` JPEG copies, `untouched` that of first views which are the image
    itself, `holdout` the share of images that accuracy is watched on. The loss is the classes' cross-entropy, plus `contrast_weight`
    times the copies' (`temperature`, `memory` earlier images), plus `alignment_weight` times 1 - cosine of two copies.
    """

    epochs: int = 22
    batch: int = 256
    peak_lr: float = 0.4
    warmup: float = 0.15
    weight_decay: float = 5e-4
    momentum: float = 0.9
    label_smoothing: float = 0.1
    temperature: float = 0.1
    memory: int = 8192
    contrast_weight: float = 1.0
    alignment_weight: float = 1.0
    copies: int = 3
    recompressed: float = 0.4
    untouched: float = 0.4
    ema_decay: float = 0.999
    holdout: float = 0.02
    seed: int = 0
    thief: Thief = field(default_factory=Thief)


def fit(images: ImageSet, recipe: Recipe, checkpoints: Path) -> tuple[Backbone, list[dict[str, float]]]:
    """Train, keeping a checkpoint an epoch in `checkpoints`; an interrupted run goes on from there.

    `images` may have gaps among its class ids. Returns the averaged weights in evaluation mode and one row an epoch: the three
    losses, and the accuracy on held-out images.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ids, classes = np.unique(images.classes, return_inverse=True)
    order = np.random.default_rng(recipe.seed).permutation(len(classes))
    held_out, fitting = np.split(order, [round(len(order) * recipe.holdout)])
    views = [torch.from_numpy(view) for view in recompressed_copies(images.images[fitting], recipe.copies, seed=recipe.seed)]
    network = Backbone(len(ids)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    steps = len(fitting) // recipe.batch
    optimizer, schedule = one_cycle(
        network, peak_lr=recipe.peak_lr, warmup=recipe.warmup, weight_decay=recipe.weight_decay,
        momentum=recipe.momentum, steps=steps * recipe.epochs,
    )  # fmt: skip
    parts = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = checkpoints / "last.pt"
    history = history_of(last, asdict(recipe))
    if history:
        restore(last, parts)
    for epoch in range(len(history), recipe.epochs):
        memory = torch.zeros((0, EMBEDDING), device=device)  # of this epoch: the last one's has copies of what comes now
        random = np.random.default_rng((recipe.seed, epoch))
        losses = []
        drawn = _batches(views, classes[fitting], recipe, random)
        for copies, truth in track(drawn, total=steps, description=f"epoch {epoch + 1}/{recipe.epochs}"):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits, embedding = network(copies.to(device).contiguous(memory_format=torch.channels_last))
            codes = embedding / embedding.shape[1] ** 0.5  # the cosine of two vectors of signs is 1 - 2 x the share of flipped ones
            one, other = codes.chunk(2)
            terms = torch.stack(
                [
                    functional.cross_entropy(logits.float(), truth.to(device), label_smoothing=recipe.label_smoothing),
                    contrast(one, other, memory, temperature=recipe.temperature),
                    1 - (one * other).sum(dim=1).mean(),
                ]
            )
            optimizer.zero_grad(set_to_none=True)
            (terms * torch.tensor([1.0, recipe.contrast_weight, recipe.alignment_weight], device=device)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            averaged.update_parameters(network)
            memory = torch.cat([codes.detach(), memory])[: recipe.memory]
            losses.append(terms.tolist())
        names = ("classification", "contrast", "alignment")
        row = dict(zip(names, np.mean(losses, axis=0).tolist(), strict=True))
        accuracy = _accuracy(averaged.module, images.images[held_out], classes[held_out])
        history.append({"epoch": epoch + 1, **row, "holdout_accuracy": accuracy})
        print(json.dumps(history[-1]), flush=True)
        save(last, {name: part.state_dict() for name, part in parts.items()} | {"history": history, "recipe": asdict(recipe)})
    network.load_state_dict(averaged.module.state_dict())
    return network.cpu().eval(), history


def contrast(one: Tensor, other: Tensor, memory: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of finding each image's copy among all others: unit vectors (n, d), row i of both of one picture.

    NT-Xent (Chen et al., 2020), as in SSCD, with a memory (k, d) of earlier images, none of them a copy: a merge of two distinct
    images among fifty thousand is decided by the few that look most alike, which one batch seldom holds (Wang et al., 2020).
    """
    both = torch.cat([one, other])
    within = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    similarity = torch.cat([within, both @ memory.T / temperature], dim=1)
    return functional.cross_entropy(similarity, torch.arange(len(both), device=both.device).roll(len(one)))


def _batches(views: list[Tensor], classes: NDArray[Any], recipe: Recipe, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of normalised pairs of copies, first all the ones (n, 3, H, W), then the others, with the class ids (2n,)."""
    order = random.permutation(len(classes))
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        rows = order[start : start + recipe.batch]
        pair = []
        for side in range(2):
            view = np.where(random.random(len(rows)) < recipe.recompressed, random.integers(1, len(views), len(rows)), 0)
            drawn = unit(torch.stack([views[v][r] for v, r in zip(view, rows, strict=True)]))
            copies = near_duplicates(drawn, recipe.thief, random)
            if side == 0:
                untouched = torch.from_numpy(random.random(len(rows)) < recipe.untouched)
                copies = torch.where(untouched.view(-1, 1, 1, 1), drawn, copies)
            pair.append(copies)
        yield normalise(torch.cat(pair)), torch.from_numpy(classes[rows]).repeat(2)


@torch.no_grad()
def _accuracy(network: nn.Module, images: NDArray[Any], classes: NDArray[Any]) -> float:
    network.eval()
    device = next(network.parameters()).device
    found = [
        network(normalise(unit(torch.from_numpy(images[i : i + 500]))).to(device))[0].argmax(1).cpu() for i in range(0, len(images), 500)
    ]
    network.train()
    return float((torch.cat(found).numpy() == classes).mean())
