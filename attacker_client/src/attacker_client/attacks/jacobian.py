"""Jacobian-based dataset augmentation: synthetic images a step along or against the student's own gradient."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.attacks.standard import buy_rows
from attacker_client.students import Student, batched_tensor
from attacker_client.transfer_set import Images, TransferSet

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Jacobian:
    """Buy seeds, then in rounds train, step from bought images where the student's answer changes most, and ask there.

    JBDA (Papernot et al. 2017): x' = clip(x + lambda_r * sign(d z_y(x) / d x)), z_y the student's logit of the endpoint's label y of x,
    pixels in 0..1. lambda_r = `step` * (-1)^(r // `period`): the periodic step size, towards the label and away by turns. From round to
    round at most `reservoir` images are stepped from, drawn evenly from all bought (reservoir sampling), so that the set doesn't double.
    Juuti et al. 2019 (PRADA) describe the attack and what gives it away: its queries lie closer together than a guest's.

    The seeds are `seed_share` of the budget, or more of it where `rounds` reservoirs can't spend the rest.
    """

    summary: ClassVar[str] = "synthetic images along the student's gradient, in rounds (JBDA, Papernot et al. 2017)"
    rounds: int = 6
    step: float = 0.1
    period: int = 1
    reservoir: int = 400
    seed_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.seed_share <= 1 or min(self.rounds, self.period, self.reservoir) < 1:
            raise ValueError("seed_share is above 0 and at most 1; rounds, period and reservoir are at least 1")

    async def __call__(self, scene: Scene) -> Student:
        """Fit after the seeds and after each round but the last to go on from; then once from fresh weights."""
        rng = np.random.default_rng((scene.seed, 4))
        budget = scene.buyer.left
        seeds = max(round(self.seed_share * budget), budget - self.rounds * self.reservoir)
        bought = await buy_rows(scene, rng.permutation(len(scene.pool))[:seeds])
        natural = len(bought)
        student: Student | None = None
        for number in range(self.rounds):
            share = -(-scene.buyer.left // (self.rounds - number))
            usable = np.flatnonzero(bought.weights > 0)
            rows = np.sort(rng.permutation(usable)[: min(self.reservoir, share)])
            if not len(rows):
                break
            student = await scene.trainer.fit(bought, start=student)
            step = self.step * (-1) ** (number // self.period)
            synthetic = stepped(student, bought.images[rows], bought.labels[rows], step=step)
            bought = TransferSet.joined([bought, await scene.buyer.buy(synthetic)])
        scene.findings["seeds"] = natural
        scene.findings["synthetic images"] = len(bought) - natural
        return await scene.trainer.fit(bought)


def stepped(student: Student, images: Images, labels: NDArray[np.int64], *, step: float) -> Images:
    """Move every pixel of images (n, S, S, 3) by `step` (of 0..1) along the sign of the gradient of the logit of `labels` (n,).

    A positive step makes the student surer of the label. Pixels stay in 0..255 and are rounded, as a file of 8 bits wants them.
    """
    student.eval()
    device = next(student.parameters()).device
    moved = []
    for start in range(0, len(images), _BATCH):
        pixels = batched_tensor(images[start : start + _BATCH]).to(device).requires_grad_()
        wanted = torch.from_numpy(labels[start : start + _BATCH]).to(device)
        (gradient,) = torch.autograd.grad(student(pixels).gather(1, wanted[:, None]).sum(), pixels)
        moved.append((pixels.detach() + step * gradient.sign()).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
    return np.asarray(np.rint(np.concatenate(moved) * 255), np.uint8)
