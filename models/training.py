"""Train a network on an image set: one-cycle, label smoothing, crop, flip, cutout, averaged weights, resumable."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.architectures import WideConvNet
from models.checkpoints import history_of, restore, save
from models.datasets import ImageSet, recompressed_copies

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, slots=True)
class Phase:
    """One cycle of the learning rate over `epochs` passes, with its own augmentation.

    `jitter` is the spread of brightness and contrast (0.2: +-20%).
    """

    epochs: int
    peak_lr: float
    warmup: float
    weight_decay: float
    cutout_px: int
    jitter: float


# The first phase learns; the second starts from the averaged weights and fights the overfitting that the first ends in.
PHASES = (
    Phase(epochs=40, peak_lr=0.3, warmup=0.2, weight_decay=5e-4, cutout_px=8, jitter=0.0),
    Phase(epochs=20, peak_lr=0.1, warmup=0.1, weight_decay=1e-3, cutout_px=12, jitter=0.2),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome of a training run; it is published in bundle.json.

    `recompressed` is the share of images drawn as one of `copies` JPEG copies of themselves, `holdout` the share of the training
    images that chooses the epoch. `tracks`: file names are TRACK_FRAME, and only whole tracks are held out.
    """

    phases: tuple[Phase, ...] = PHASES
    batch: int = 256
    momentum: float = 0.9
    label_smoothing: float = 0.1
    crop_px: int = 4
    flip: bool = True
    copies: int = 3
    recompressed: float = 0.375
    ema_decay: float = 0.998
    holdout: float = 0.05
    seed: int = 0
    widths: tuple[int, int, int] = (64, 256, 256)
    tracks: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the training images in all phases."""
        return sum(phase.epochs for phase in self.phases)


RECIPES = {
    "cifar10": Recipe(),
    # signs are read, so they are not mirrored; 30 frames of a track are nearly one image, so the small network is wide enough
    "gtsrb": Recipe(
        phases=(Phase(epochs=24, peak_lr=0.2, warmup=0.2, weight_decay=5e-4, cutout_px=8, jitter=0.3),),
        crop_px=3,
        flip=False,
        widths=(64, 128, 256),
        tracks=True,
    ),
}


def split_holdout(train: ImageSet, recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    """Cut the part of the training set that chooses the epoch; the test set never does."""
    groups = np.unique(train.groups)
    shuffled = np.random.default_rng(recipe.seed).permutation(groups)
    held_out = np.isin(train.groups, shuffled[: round(len(groups) * recipe.holdout)])
    return train.subset(np.flatnonzero(~held_out)), train.subset(np.flatnonzero(held_out))


def fit(train: ImageSet, recipe: Recipe, checkpoints: Path) -> tuple[WideConvNet, list[dict[str, float]]]:
    """Train, keeping a checkpoint an epoch in `checkpoints`, and return the averaged weights of the best epoch.

    An interrupted run goes on from its last checkpoint. Returns the network in evaluation mode and one row an
    epoch (loss, holdout accuracy).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fitting, holdout = split_holdout(train, recipe)
    network = WideConvNet(len(train.names), widths=recipe.widths).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    checkpoints.mkdir(parents=True, exist_ok=True)
    last, best = checkpoints / "last.pt", checkpoints / "best.pt"
    steps = len(fitting.images) // recipe.batch
    views = [torch.from_numpy(view) for view in recompressed_copies(fitting.images, recipe.copies, seed=recipe.seed)]
    history = history_of(last, asdict(recipe))
    end = 0
    for phase in recipe.phases:
        begin, end = end, end + phase.epochs
        if len(history) >= end:
            continue
        optimizer, schedule = one_cycle(
            network, peak_lr=phase.peak_lr, warmup=phase.warmup, weight_decay=phase.weight_decay,
            momentum=recipe.momentum, steps=steps * phase.epochs,
        )  # fmt: skip
        parts = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
        if len(history) > begin:
            restore(last, parts)
        elif begin:
            restore(last, {"averaged": averaged})
            network.load_state_dict(averaged.module.state_dict())
        for epoch in range(len(history), end):
            random = np.random.default_rng((recipe.seed, epoch))
            losses = []
            drawn = batches(views, fitting.classes, recipe, phase, random)
            for images, classes in track(drawn, total=steps, description=f"epoch {epoch + 1}/{recipe.epochs}"):
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    logits = network(images.to(device).contiguous(memory_format=torch.channels_last))
                loss = functional.cross_entropy(logits.float(), classes.to(device), label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                losses.append(loss.item())
            accuracy = float((predict(averaged.module, holdout.images).argmax(1) == holdout.classes).mean())
            history.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "holdout_accuracy": accuracy})
            print(json.dumps(history[-1]), flush=True)
            if accuracy >= max(row["holdout_accuracy"] for row in history):
                save(best, {"network": averaged.module.state_dict()})
            save(last, {name: part.state_dict() for name, part in parts.items()} | {"history": history, "recipe": asdict(recipe)})
    network.load_state_dict(torch.load(best, weights_only=True)["network"])
    return network.cpu().eval(), history


@torch.no_grad()
def predict(network: nn.Module, images: NDArray[np.uint8], *, batch: int = 500) -> NDArray[np.float32]:
    """Logits (N, classes) of uint8 images (N, H, W, 3) in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    rows = [
        network(normalise(unit(torch.from_numpy(images[i : i + batch]))).to(device)).float().cpu() for i in range(0, len(images), batch)
    ]
    network.train()
    return torch.cat(rows).numpy()


def unit(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to 0..1, (N, 3, H, W)."""
    return images.permute(0, 3, 1, 2).float() / 255


def normalise(images: Tensor) -> Tensor:
    """Centre and scale images (N, 3, H, W) in 0..1 as the networks expect them."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (images - mean) / std


def batches(
    views: list[Tensor], classes: NDArray[np.int64], recipe: Recipe, phase: Phase, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches; some images are drawn as a recompressed copy of themselves (`views[1:]`)."""
    order = random.permutation(len(classes))
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        rows = order[start : start + recipe.batch]
        view = np.where(random.random(len(rows)) < recipe.recompressed, random.integers(1, len(views), len(rows)), 0)
        images = torch.stack([views[v][r] for v, r in zip(view, rows, strict=True)])
        yield augment(normalise(unit(images)), recipe, phase, random), torch.from_numpy(classes[rows])


def augment(images: Tensor, recipe: Recipe, phase: Phase, random: np.random.Generator) -> Tensor:
    """Random crop (reflected border), mirror, brightness, contrast and cutout of normalised images (N, 3, H, W)."""
    n, _, height, width = images.shape
    pad = recipe.crop_px
    padded = functional.pad(images, (pad, pad, pad, pad), mode="reflect")
    across = torch.from_numpy(random.integers(0, 2 * pad + 1, n)).view(-1, 1) + torch.arange(width)
    down = torch.from_numpy(random.integers(0, 2 * pad + 1, n)).view(-1, 1) + torch.arange(height)
    if recipe.flip:
        mirrored = torch.from_numpy(random.random(n) < 0.5).view(-1, 1)
        across = torch.where(mirrored, across.flip(1), across)
    cropped = padded[torch.arange(n).view(-1, 1, 1), :, down.unsqueeze(2), across.unsqueeze(1)].permute(0, 3, 1, 2)
    if phase.jitter:
        contrast, brightness = torch.from_numpy(random.uniform(-phase.jitter, phase.jitter, (2, n, 1, 1, 1)).astype(np.float32))
        cropped = cropped * (1 + contrast) + 2 * brightness  # in standard deviations: a colour's is a quarter of its range, its mean a half
    top = torch.from_numpy(random.integers(1 - phase.cutout_px, height, n)).view(-1, 1, 1)
    left = torch.from_numpy(random.integers(1 - phase.cutout_px, width, n)).view(-1, 1, 1)
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    hole = (y >= top) & (y < top + phase.cutout_px) & (x >= left) & (x < left + phase.cutout_px)
    return cropped.masked_fill(hole.unsqueeze(1), 0.0)


def one_cycle(
    network: nn.Module, *, peak_lr: float, warmup: float, weight_decay: float, momentum: float, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    """SGD with Nesterov momentum, weight decay on matrices only, and one cycle of the learning rate over `steps`."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=peak_lr, momentum=momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    return optimizer, schedule
