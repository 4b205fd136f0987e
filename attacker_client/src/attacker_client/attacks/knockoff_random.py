"""Knockoff nets, the random policy: as many images of each of the pool's classes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.attacks.standard import buy_rows
from attacker_client.students import Student


@dataclass(frozen=True, slots=True)
class KnockoffRandom:
    """Draw from the pool's classes in turn, without replacement, and train on (x, f(x)).

    Knockoff nets (Orekondy, Schiele and Fritz 2019) sample the pool uniformly; Atli et al. 2020 take the same number of each class ("100
    images a class"). So do we: this is all that differs from `standard`, and a pool whose classes nobody knows, or whose classes are
    equally large and bought whole, makes it the same. A class that has run out is passed over.
    """

    summary: ClassVar[str] = "knockoff nets, random policy: as many images of each class of the pool, where its classes are known"

    async def __call__(self, scene: Scene) -> Student:
        """Buy, then fit once."""
        rng = np.random.default_rng((scene.seed, 2))
        order = rng.permutation(len(scene.pool))
        if scene.pool.classes is not None:
            order = in_turns(order, scene.pool.classes)
        scene.findings["balanced over classes"] = scene.pool.classes is not None
        return await scene.trainer.fit(await buy_rows(scene, order))


def in_turns(order: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reorder rows so that every class gives its first row, then its second, and so on; `order` (n,) decides within a turn.

    `classes` (N,) are those of all rows of the pool.
    """
    by_class = np.argsort(classes[order], kind="stable")
    _, starts, counts = np.unique(classes[order][by_class], return_index=True, return_counts=True)
    turns = np.empty(len(order), np.int64)
    turns[by_class] = np.arange(len(order)) - np.repeat(starts, counts)
    return order[np.argsort(turns, kind="stable")]
