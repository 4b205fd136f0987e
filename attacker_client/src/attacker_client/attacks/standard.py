"""Standard mimicking: ask about each image once and learn the answers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet

_AT_A_TIME = 2048  # images read from the pool for one purchase


async def buy_rows(scene: Scene, rows: NDArray[np.int64]) -> TransferSet:
    """Buy the pool's `rows` (k,) in their order until they or the budget end; row i of the result answers `rows[i]`."""
    parts = [TransferSet.empty(scene.pool.size)]
    for start in range(0, len(rows), _AT_A_TIME):
        chunk = rows[start : start + _AT_A_TIME]
        parts.append(await scene.buyer.buy(scene.pool[chunk]))
        if len(parts[-1]) < len(chunk):
            break
    return TransferSet.joined(parts)


@dataclass(frozen=True, slots=True)
class Standard:
    """Ask about images in random order, each once, until the pool or the budget ends, and train on (x, f(x)).

    The student learns f's scores where they are told and its labels elsewhere; augmentation is the training recipe's. Mosafi, David and
    Netanyahu 2019 call it standard mimicking, and it is their baseline; with unrelated images and labels only it is Copycat CNN
    (Correia-Silva et al. 2018). That a network can be trained on what another one answers is Ba and Caruana's (2014).
    """

    summary: ClassVar[str] = "each image of the pool once, in random order"

    async def __call__(self, scene: Scene) -> Student:
        """Buy, then fit once."""
        order = np.random.default_rng((scene.seed, 1)).permutation(len(scene.pool))
        return await scene.trainer.fit(await buy_rows(scene, order))
