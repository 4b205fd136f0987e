"""A tiny scene: pictures of coloured shapes, an endpoint that is a function of their pixels, and the real trainer."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.errors import Unreachable
from attacker_client.recipes import RECIPES
from attacker_client.training import StudentTrainer
from attacker_client.transfer_set import Images, TransferSet

SIZE = 16
COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 220], [210, 200, 40]], np.float32)  # a class each: red, green, blue, yellow

Recognizer = Callable[[Images], NDArray[np.float32]]
Ledger = dict[bytes, NDArray[np.float32]]  # digest of an image -> the scores of its answer


class ShapesPool:
    """Discs, squares and crosses on a grey noisy ground; a class is a colour. `classes` None: the thief doesn't know what they show."""

    def __init__(self, n: int = 300, *, seed: int = 7, known: bool = True) -> None:
        rng = np.random.default_rng(seed)
        colours = rng.integers(len(COLOURS), size=n)
        self.size = SIZE
        self.images = np.stack([_shape(colour, rng) for colour in colours])
        self.classes: NDArray[np.int64] | None = colours if known else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        return self.images[rows]


def _shape(colour: int, rng: np.random.Generator) -> Images:
    y, x = np.mgrid[:SIZE, :SIZE] - rng.uniform(5, SIZE - 5, size=(2, 1, 1))
    radius = rng.uniform(3, 6)
    near = [np.hypot(x, y) < radius, np.maximum(abs(x), abs(y)) < radius, np.minimum(abs(x), abs(y)) < radius / 3]
    image = rng.normal(rng.uniform(60, 190), 8, size=(SIZE, SIZE, 1)).repeat(3, axis=2)
    image[near[rng.integers(len(near))]] = COLOURS[colour] * rng.uniform(0.7, 1.1)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def by_colour(images: Images) -> NDArray[np.float32]:
    """The endpoint's recognizer: scores (n, 4) by the mean colour, softmax(0.12 * (what exceeds grey) . (a colour's own direction))."""
    means = images.astype(np.float32).mean(axis=(1, 2))
    directions = COLOURS - COLOURS.mean(axis=1, keepdims=True)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    logits = 0.12 * (means - means.mean(axis=1, keepdims=True)) @ directions.T
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)


class ScriptedBuyer:
    """A budget in front of a recognizer.

    An image costs the budget once a run, also when `ledger`, which may be shared by runs, knows its answer already: so a repeated run does
    what the first one did. `fresh` are the digests of the images that were really asked in this run, in their order; `asked` all of them,
    `asked_as` as whom. With `breaks_after` the connection is lost for good after as many fresh answers.
    """

    def __init__(
        self,
        recognizer: Recognizer = by_colour,
        *,
        budget: int,
        tells: Literal["scores", "labels"] | int = "scores",
        identities: int = 1,
        ledger: Ledger | None = None,
        breaks_after: int | None = None,
    ) -> None:
        self.identities = identities
        self.fresh: list[bytes] = []
        self.asked: list[bytes] = []
        self.asked_as: list[int] = []
        self.images: list[Images] = []
        self.ledger: Ledger = {} if ledger is None else ledger
        self._recognizer = recognizer
        self._budget = budget
        self._tells = tells
        self._breaks_after = breaks_after
        self._counted: set[bytes] = set()

    @property
    def left(self) -> int:
        """What the budget still pays for."""
        return self._budget - len(self._counted)

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
        """Answer images (n, S, S, 3) until the budget ends; labels only, or the best k classes, where it tells no more."""
        assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3, (images.dtype, images.shape)
        rows: list[NDArray[np.float32]] = []
        for number, image in enumerate(images):
            digest = sha256(image.tobytes()).digest()
            if digest not in self._counted and not self.left:
                break
            if digest not in self.ledger:
                if len(self.fresh) == self._breaks_after:
                    raise Unreachable("the connection is gone")
                self.ledger[digest] = self._recognizer(image[None])[0]
                self.fresh.append(digest)
            self._counted.add(digest)
            self.asked.append(digest)
            self.asked_as.append(0 if identities is None else int(identities[number]))
            self.images.append(image)
            rows.append(self.ledger[digest])
        if not rows:
            return TransferSet.empty(images.shape[1])
        scores = np.stack(rows)
        told = scores.copy()
        if self._tells == "labels":
            told[:] = np.nan
        elif self._tells != "scores":
            told[np.argsort(np.argsort(-scores, axis=1), axis=1) >= self._tells] = np.nan
        return TransferSet(images[: len(rows)], scores.argmax(axis=1).astype(np.int64), told, np.ones(len(rows), np.float32))


def trainer(checkpoints: Path, *, seed: int = 0, epochs: int = 2) -> StudentTrainer:
    """The real trainer of the small student, with few epochs."""
    return StudentTrainer("small", RECIPES["fast"], size=SIZE, checkpoints=checkpoints, seed=seed, epochs=epochs)


def scene(buyer: ScriptedBuyer, checkpoints: Path, *, pool: ShapesPool | None = None, seed: int = 0, epochs: int = 2) -> Scene:
    """Everything an attack needs, tiny."""
    return Scene(pool=pool or ShapesPool(), buyer=buyer, trainer=trainer(checkpoints, seed=seed, epochs=epochs), seed=seed)
