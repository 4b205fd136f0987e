"""How to train a student: the papers' recipes and a fast one, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from attacker_client.augmentation import Augmentation

UNCHANGED = Augmentation()


@dataclass(frozen=True, slots=True)
class Steps:
    """Multiply the learning rate by `factor` every `every` epochs."""

    every: int
    factor: float

    def at(self, epoch: float, epochs: int) -> float:  # noqa: ARG002 - one signature for both schedules
        """The factor on the learning rate."""
        return float(self.factor ** (int(epoch) // self.every))


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Rise in a line during the first `warmup` of the epochs, then fall to nothing as a cosine does."""

    warmup: float

    def at(self, epoch: float, epochs: int) -> float:
        """The factor on the learning rate."""
        share = epoch / epochs
        if share < self.warmup:
            return max(share / self.warmup, 0.02)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (share - self.warmup) / (1 - self.warmup)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a student is trained.

    `epochs` holds for sets of any size where `per_root` is None. Otherwise a set of n rows is passed over per_root / sqrt(n) times, at most
    `epochs`: four times the answers take twice the time. `dropout` is the share of units dropped before the dense layers.
    """

    summary: str
    epochs: int
    lr: float
    batch: int
    schedule: Steps | OneCycle
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    dropout: float = 0.0
    augmentation: Augmentation = UNCHANGED
    per_root: float | None = None

    def epochs_for(self, rows: int) -> int:
        """How many passes a set of so many rows gets."""
        if self.per_root is None:
            return self.epochs
        return min(self.epochs, max(1, round(self.per_root / math.sqrt(max(rows, 1)))))

    def optimizer_for(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; weight decay is on matrices only, since it would push norms and biases to zero for nothing."""
        matrices = [p for p in network.parameters() if p.ndim > 1]
        vectors = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        make: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
        options: dict[str, object] = {}
        if self.optimizer == "sgd":
            make, options = torch.optim.SGD, {"momentum": self.momentum}
        return make(groups, lr=self.lr, **options)


_COMPOSITE = Recipe(
    "the composite attack (Mosafi et al.): no dropout, no L2, no views",
    epochs=100,
    lr=0.001,
    batch=128,
    schedule=Steps(every=10, factor=0.9),
)

_FAST = Recipe(
    "for CPUs: one cycle of Adam, strong views, fewer passes over larger sets",
    epochs=150,
    per_root=1700,
    lr=0.002,
    batch=128,
    schedule=OneCycle(warmup=0.2),
    optimizer="adam",
    augmentation=Augmentation(shift=0.125, flip=True, cutout=0.25),
)

RECIPES: dict[str, Recipe] = {
    "fast": _FAST,
    "plain": replace(
        _FAST, summary="fast without views: a student that knows its answers by heart, wrong ones too", augmentation=UNCHANGED
    ),
    "standard-paper": replace(
        _COMPOSITE,
        summary="standard mimicking (Mosafi et al.): dropout, L2, small shifts and rotations",
        weight_decay=5e-4,
        dropout=0.2,
        augmentation=Augmentation(shift=0.1, rotation=15),
    ),
    "composite-paper": _COMPOSITE,
    "knockoff": Recipe(
        "Knockoff nets (Orekondy et al.), for pretrained students",
        epochs=100,
        lr=0.01,
        batch=64,
        schedule=Steps(every=60, factor=0.1),
        momentum=0.5,
    ),
    "atli": Recipe(
        "Atli et al., for pretrained students: 100 epochs of SGD", epochs=100, lr=0.01, batch=64, schedule=Steps(every=60, factor=0.1)
    ),
    "atli-scratch": Recipe(
        "Atli et al., from scratch: 200 epochs of Adam",
        epochs=200,
        lr=0.001,
        batch=64,
        schedule=Steps(every=100, factor=0.5),
        optimizer="adam",
    ),
}
