"""Two numbers an image: features of MNIST and CIFAR-10 in [-1, 1]^2, from a CNN with a bottleneck of two units (Mori et al.).

The paper says no more of its CNN. Ours is small: strided convolutions with batch norm, two units under tanh, a hidden layer of 64 and
ten classes on top, trained on the training split by Adam and one cycle of the learning rate. The features are of the images that it
was trained on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import datasets

SetName = Literal["mnist", "cifar10"]
SETS: tuple[SetName, ...] = ("mnist", "cifar10")
WIDTHS: dict[SetName, tuple[int, ...]] = {"mnist": (16, 32, 64), "cifar10": (32, 64, 128)}
EPOCHS: dict[SetName, int] = {"mnist": 8, "cifar10": 8}
BATCH, PEAK_LR = 128, 5e-3


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Of n images: points (n, 2) float32 in [-1, 1]^2, classes (n,) int64, and how many of them the CNN itself gets right."""

    points: NDArray[np.float32]
    classes: NDArray[np.int64]
    accuracy: float


class Bottleneck(nn.Module):
    """Images (n, c, h, w) to points (n, 2) in [-1, 1]^2, and these to logits (n, 10)."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        # centred and scaled before tanh: otherwise all classes end in the four corners, where no gradient moves them any more
        points = (nn.Linear(64, 2), nn.BatchNorm1d(2, affine=False), nn.Tanh())
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(64), nn.ReLU(inplace=True), *points)
        self.classifier = nn.Sequential(nn.Linear(2, 64), nn.ReLU(inplace=True), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.body(images))
        return logits


def features(name: SetName, data: Path, *, seed: int, out: Path) -> Features:
    """Train the CNN, or read what it made before from `out`."""
    kept = out / f"features-{name}-{seed}.npz"
    if not kept.exists():
        images, classes = load(name, data)
        made = train(images, classes, widths=WIDTHS[name], epochs=EPOCHS[name], seed=seed)
        out.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.npz")
        np.savez_compressed(partial, points=made.points, classes=made.classes, accuracy=made.accuracy)
        partial.replace(kept)
    with np.load(kept) as archive:
        return Features(archive["points"], archive["classes"], float(archive["accuracy"]))


def load(name: SetName, data: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The training split: images (n, h, w, c) uint8 and classes (n,)."""
    if name == "cifar10":
        images = datasets.load(name, data, "train", size=32)
        return images.images, images.classes
    raw = data / "mnist" / "MNIST" / "raw"
    digits = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), dtype=np.uint8, offset=16)
    classes = np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), dtype=np.uint8, offset=8)
    return digits.reshape(-1, 28, 28, 1), classes.astype(np.int64)


def train(images: NDArray[np.uint8], classes: NDArray[np.int64], *, widths: tuple[int, ...], epochs: int, seed: int) -> Features:
    """Fit the CNN to images (n, h, w, c), and take their points."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pixels = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
        told = torch.from_numpy(classes)
        network = Bottleneck(images.shape[3], widths)
        network(_scaled(pixels[:2]))  # the lazy layer learns its size
        network.train()
        steps = len(images) // BATCH
        optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=epochs * steps)
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for step in range(steps):
                rows = order[step * BATCH : (step + 1) * BATCH]
                loss = functional.cross_entropy(network(_scaled(pixels[rows])), told[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    network.eval()
    with torch.no_grad():
        points = torch.cat([network.body(_scaled(pixels[i : i + 1_000])) for i in range(0, len(pixels), 1_000)])
        hits = (network.classifier(points).argmax(dim=1) == told).float().mean()
    return Features(points.numpy(), classes, float(hits))


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1
