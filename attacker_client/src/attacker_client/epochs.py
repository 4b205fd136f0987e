"""One pass of a training over a transfer set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from attacker_client.recipes import Recipe
from attacker_client.students import Student, batched_tensor, mixed_precision
from attacker_client.transfer_set import TransferSet

if TYPE_CHECKING:  # the table of attacks imports attacks that import the training
    from attacker_client.attacks.attack import Loss


def one_epoch(
    network: Student, optimizer: torch.optim.Optimizer, data: TransferSet, *, recipe: Recipe, loss: Loss, hard: bool, epoch: int,
    epochs: int, seed: int, device: torch.device,
) -> float:  # fmt: skip
    """Learn all rows once, at least one; the mean loss.

    Its randomness is the seed's and the epoch's alone, so that an epoch that is repeated after an interruption is the same.
    """
    random = np.random.default_rng((seed, epoch))
    targets = torch.from_numpy(data.targets(classes=network.classes, hard=hard))
    weights = torch.from_numpy(data.weights / data.weights.mean())
    batches = list(_batches(len(data), recipe.batch, random))
    cuda = [device.index or 0] if device.type == "cuda" else []
    losses = []
    network.train()
    with torch.random.fork_rng(devices=cuda), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        torch.manual_seed(int(random.integers(2**62)))  # dropout has no generator of its own
        for step, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * recipe.schedule.at(epoch + step / len(batches), epochs)
            pixels = recipe.augmentation(batched_tensor(data.images[rows]).to(device), random)
            target, weight = targets[rows].to(device), weights[rows].to(device)
            with mixed_precision(device):
                logits = network(pixels.contiguous(memory_format=torch.channels_last))
            mean = (weight * loss(logits.float(), target)).mean()
            optimizer.zero_grad(set_to_none=True)
            mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(mean.item())
    return float(np.mean(losses))


def _batches(n: int, batch: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """All rows in a random order, in batches of nearly equal size; never one row alone, of which batch norm can't learn."""
    order = random.permutation(n)
    if n == 1:
        order = np.zeros(2, np.int64)
    yield from np.array_split(order, -(-len(order) // max(batch, 2)))
