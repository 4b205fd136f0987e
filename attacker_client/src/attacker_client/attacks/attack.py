"""What an attack is: it gets a scene, and turns a pool of images and a budget into a student.

Two seams make attacks wrap each other: the `Buyer` (images go in, answers come out) and the `Trainer` (answers go in, a student comes out).
A wrapping attack runs its inner one in a scene where one of the two is its own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attacker_client.students import Student
from attacker_client.transfer_set import Images, TransferSet

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, classes) and targets (n, classes), a distribution a row, to losses (n,)."""

Draw = Callable[[int, Student], Awaitable[TransferSet]]
"""The transfer set of an epoch (counted from 0), given the student as it is before it; an empty set ends the training."""


class Pool(Protocol):
    """Images that the thief has. Reading a row again gives the same pixels."""

    size: int  # pixels a side
    classes: NDArray[np.int64] | None  # (n,), where the thief knows what his images show: the folders' numbers

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        """Images (k, size, size, 3) of the rows (k,)."""
        ...


class Buyer(Protocol):
    """The endpoint, as an attack sees it."""

    @property
    def left(self) -> int:
        """How many more images the budget pays for; images bought before cost nothing."""
        ...

    @property
    def identities(self) -> int:
        """As how many clients the endpoint can be asked."""
        ...

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
        """Buy answers for images (n, S, S, 3): row i of the result answers image i.

        Fewer rows than images mean that the budget is spent. `identities` (n,) say who asks about each, 0..identities-1; by default 0. What
        was bought before comes from the ledger. Raises OracleError where the endpoint refuses for good.
        """
        ...


class Trainer(Protocol):
    """Make students, the same from the same data."""

    def epochs_for(self, rows: int) -> int:
        """How many epochs a training on so many rows has."""
        ...

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None, epochs: int | None = None) -> Student:
        """Train a student on a transfer set, or on a fresh one an epoch; `start` is one to go on from instead of fresh weights.

        A training on a draw has `epochs` epochs, which only the attack knows that draws; by default the recipe's largest number.
        Keeps checkpoints: the same call with the same data after an interruption goes on, or gives back what it gave.
        """
        ...

    def with_loss(self, loss: Loss) -> Self:
        """The same trainer with another loss than cross-entropy."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Everything an attack may use. `findings` take what it learned on the way: plain numbers, texts, lists; they go into the report."""

    pool: Pool
    buyer: Buyer
    trainer: Trainer
    seed: int
    findings: dict[str, Any] = field(default_factory=dict)


class Attack(Protocol):
    """One way to clone. Its options are its dataclass fields, each with a default."""

    summary: ClassVar[str]  # one line for `attacker-client list`

    async def __call__(self, scene: Scene) -> Student | None:
        """Spend the budget and return the student; None from what only looks around."""
        ...
