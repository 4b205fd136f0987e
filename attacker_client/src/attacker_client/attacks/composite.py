"""The composite attack: fresh mixtures of images every epoch, so that even a label tells how classes mix."""

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Draw, Pool, Scene
from attacker_client.students import Student
from attacker_client.transfer_set import Images, TransferSet

_AT_A_TIME = 2048  # composites mixed for one purchase


@dataclass(frozen=True, slots=True)
class Composite:
    """Ask about mixtures of images drawn anew at the start of every epoch, and learn the answers to these (Mosafi et al. 2019).

    x = p A[i] + (1 - p) A[j] with i, j drawn with replacement and p one of 0.00, 0.01 ... 0.99; with `images` > 2 the ratios are
    Dirichlet(1, ..., 1), which is even over all ratios that sum to 1. y is the endpoint's answer: its scores where told, else its label.

    `mode`:
    - equal-budget: to be compared with an attack that asks as often. Each of the first `epochs` epochs (of at most half of the training's)
      draws as many fresh composites, and every epoch trains on all bought so far: a thief keeps what he paid for. The training has the
      epochs that its recipe gives a set as large as the budget.
    - paper-budget: every epoch trains on fresh composites only, `scale` * `per_epoch` of them (1,000,000 in the paper, 10^8 in all); there
      are as many epochs as the budget pays for.
    """

    summary: ClassVar[str] = "fresh mixtures of images every epoch (Mosafi et al. 2019)"
    images: int = 2
    mode: Literal["equal-budget", "paper-budget"] = "equal-budget"
    epochs: int = 10
    per_epoch: int = 1_000_000
    scale: float = 0.01

    def __post_init__(self) -> None:
        if self.images < 2 or self.epochs < 1 or self.per_epoch * self.scale < 1:
            raise ValueError("composites take at least 2 images, and there is at least 1 in at least 1 epoch")

    async def __call__(self, scene: Scene) -> Student:
        """Fit once; purchases happen at the epochs' starts."""
        budget = scene.buyer.left
        if self.mode == "equal-budget":
            epochs = scene.trainer.epochs_for(budget)
            return await scene.trainer.fit(self._all_so_far(scene, epochs=min(self.epochs, max(1, epochs // 2))), epochs=epochs)
        return await scene.trainer.fit(self._fresh_only(scene), epochs=max(1, -(-budget // int(self.per_epoch * self.scale))))

    def _all_so_far(self, scene: Scene, *, epochs: int) -> Draw:
        budget = scene.buyer.left
        shares = np.diff(-(-np.arange(epochs + 1) * budget // epochs))
        bought = [TransferSet.empty(scene.pool.size)]

        async def draw(epoch: int, _: Student) -> TransferSet:
            # A resumed training begins at a later epoch: what the earlier ones bought comes from the ledger.
            bought.extend([await self._buy(scene, int(shares[e]), e) for e in range(len(bought) - 1, min(epoch + 1, epochs))])
            return TransferSet.joined(bought)

        return draw

    def _fresh_only(self, scene: Scene) -> Draw:
        numbers = itertools.count()

        async def draw(epoch: int, _: Student) -> TransferSet:
            fresh = TransferSet.empty(scene.pool.size)
            for number in numbers:
                fresh = await self._buy(scene, min(int(self.per_epoch * self.scale), scene.buyer.left), number)
                if number >= epoch:
                    break
            return fresh

        return draw

    async def _buy(self, scene: Scene, n: int, epoch: int) -> TransferSet:
        """Buy the `n` composites of an epoch, the same for the same epoch."""
        rng = np.random.default_rng((scene.seed, 3, epoch))
        parts = [TransferSet.empty(scene.pool.size)]
        for start in range(0, n, _AT_A_TIME):
            count = min(_AT_A_TIME, n - start)
            rows, ratios = recipe(len(scene.pool), count, images=self.images, rng=rng)
            parts.append(await scene.buyer.buy(mix(scene.pool, rows, ratios)))
        return TransferSet.joined(parts)


def recipe(pool: int, n: int, *, images: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw which of `pool` images make each of `n` composites, and in which ratios: rows and ratios (n, images)."""
    rows = rng.integers(pool, size=(n, images))
    if images == 2:
        p = rng.integers(100, size=(n, 1)) / 100
        return rows, np.concatenate([p, 1 - p], axis=1)
    return rows, rng.dirichlet(np.ones(images), size=n)


def mix(pool: Pool, rows: NDArray[np.int64], ratios: NDArray[np.float64]) -> Images:
    """Mix images pixel by pixel: sum over k of ratios[:, k] * pool[rows[:, k]], rounded to 8 bits. rows and ratios are (n, images)."""
    n, images = rows.shape
    mixed = np.zeros((n, pool.size, pool.size, 3), np.float32)
    for k in range(images):
        mixed += ratios[:, k, None, None, None].astype(np.float32) * pool[rows[:, k]]
    return np.rint(mixed).astype(np.uint8)
