"""Sybil: one thief as many clients, so that limits and records that are kept by client see little of each."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Attack, Buyer, Scene
from attacker_client.attacks.voting import Voting
from attacker_client.students import Student
from attacker_client.transfer_set import Images, TransferSet


@dataclass(frozen=True, slots=True)
class Sybil:
    """Spread the queries of the inner attack over all identities that the scene has; the budget is what it was.

    `round-robin` takes the identities in turn, `random` draws one for each image, `neighbourhood` draws a different one for each of the
    near-duplicates that a voting attack further inside asks about, so that no client is seen asking twice about one image (as long as there
    are enough clients). `pace` is the queries a second that each identity asks at most; 0 is as fast as it goes. Raises ValueError where
    the scene has one identity only.
    """

    inner: Attack
    by: Literal["round-robin", "random", "neighbourhood"] = "round-robin"
    pace: float = 0.0

    summary: ClassVar[str] = "spreads the queries over many identities (wraps another attack)"

    def __post_init__(self) -> None:
        if not self.pace >= 0:
            raise ValueError("pace is 0 or more queries a second")

    async def __call__(self, scene: Scene) -> Student | None:
        """Run the inner attack as many clients."""
        if scene.buyer.identities < 2:
            raise ValueError("sybil needs at least two identities: give --identities N, or several API keys")
        buyer = SybilBuyer(scene.buyer, by=self.by, pace=self.pace, seed=scene.seed, together=near_duplicates_together(self.inner))
        try:
            return await self.inner(replace(scene, buyer=buyer))
        finally:
            scene.findings["sybil"] = {"by": self.by, "pace": self.pace, "queries_per_identity": buyer.asked.tolist()}


@dataclass(slots=True, eq=False)
class SybilBuyer:
    """A buyer that chooses who asks. Implements `Buyer`.

    `together` is how many images in a row are near-duplicates of each other. `clock` is in seconds.
    """

    inner: Buyer
    by: Literal["round-robin", "random", "neighbourhood"] = field(kw_only=True)
    seed: int = field(kw_only=True)
    pace: float = field(default=0.0, kw_only=True)
    together: int = field(default=1, kw_only=True)
    clock: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, kw_only=True)
    asked: NDArray[np.int64] = field(init=False)  # images answered, by identity
    _random: np.random.Generator = field(init=False)
    _free_at: NDArray[np.float64] = field(init=False)
    _turn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        assert self.pace >= 0 and self.together >= 1, (self.pace, self.together)
        self.asked = np.zeros(self.inner.identities, np.int64)
        self._free_at = np.full(self.inner.identities, -np.inf)
        self._random = np.random.default_rng(self.seed)

    @property
    def left(self) -> int:
        """As the inner buyer's."""
        return self.inner.left

    @property
    def identities(self) -> int:
        """As the inner buyer's."""
        return self.inner.identities

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
        """Buy answers as many clients; an inner attack that names the identities itself is left alone."""
        whose = self._chosen(len(images)) if identities is None else identities
        bought = await self.inner.buy(images, identities=whose) if self.pace == 0 else await self._buy_slowly(images, whose)
        self.asked += np.bincount(whose[: len(bought)], minlength=len(self.asked))
        return bought

    def _chosen(self, n: int) -> NDArray[np.int64]:
        many = self.inner.identities
        match self.by:
            case "round-robin":
                first, self._turn = self._turn, (self._turn + n) % many
                return (first + np.arange(n)) % many
            case "random":
                return self._random.integers(many, size=n)
            case "neighbourhood":
                groups = -(-n // self.together)
                orders = self._random.permuted(np.tile(np.arange(many), (groups, 1)), axis=1)
                return np.asarray(orders[:, np.arange(self.together) % many].reshape(-1)[:n], dtype=np.int64)

    async def _buy_slowly(self, images: Images, whose: NDArray[np.int64]) -> TransferSet:
        """In waves in which no identity asks twice, so that the rows bought are the first ones. Answers from the ledger take no time."""
        parts, start = [TransferSet.empty(images.shape[1])], 0
        while start < len(images):
            seen: set[int] = set()
            stop = start
            while stop < len(images) and int(whose[stop]) not in seen:
                seen.add(int(whose[stop]))
                stop += 1
            wave = whose[start:stop]
            wait = float(self._free_at[wave].max()) - self.clock()
            if wait > 0:
                await self.sleep(wait)
            began, left = self.clock(), self.inner.left
            part = await self.inner.buy(images[start:stop], identities=wave)
            parts.append(part)
            if self.inner.left < left:
                self._free_at[wave] = began + 1 / self.pace
            if len(part) < stop - start:
                break
            start = stop
        return TransferSet.joined(parts)


def near_duplicates_together(attack: object) -> int:
    """How many near-duplicates in a row the chain of attacks asks about."""
    while attack is not None:
        if isinstance(attack, Voting):
            return attack.variants
        attack = getattr(attack, "inner", None)
    return 1
