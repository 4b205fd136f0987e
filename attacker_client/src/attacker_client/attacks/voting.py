"""Near-duplicate voting: the answer to an image, and whether it was altered, from the answers to its near-duplicates.

Kinbara, Nakamura, Nitta, Babaguchi (PRMU2019-94): against a server that alters a share of its answers on purpose. When each of n
variants is altered independently with rate 0.1, the majority is wrong with probability 0.1 (n = 1), 0.028 (3), 0.0086 (5), 0.0027 (7).
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Attack, Buyer, Scene
from attacker_client.near_duplicates import variants_of
from attacker_client.students import Student
from attacker_client.transfer_set import Images, TransferSet

PARTNERS = 256  # images of the pool to blend with
REMEMBERED = 20_000  # images that the model is fitted to
PRIOR_ROWS = 10.0  # as how many images the prior rate of alteration counts
PRIOR_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Voting:
    """Ask every image `variants` times, itself and near-duplicates, and believe the plurality; a tie goes to the image's own answer.

    `repair` takes the vote's label and the mean scores of the variants that agree with it; `drop` does the same but gives weight 0 to an
    image whose vote is wrong with a posterior above `threshold` (see `AlterationModel`). The budget pays for `variants` queries an
    image; the last image makes do with what is left of it. `mirror` allows flipped variants.
    """

    inner: Attack
    variants: int = 5
    policy: Literal["repair", "drop"] = "repair"
    threshold: float = 0.5
    mirror: bool = True

    summary: ClassVar[str] = "asks near-duplicates of every image too and takes the vote (wraps another attack)"

    def __post_init__(self) -> None:
        if self.variants < 1 or not 0 <= self.threshold <= 1:
            raise ValueError("variants is at least 1, and threshold is 0 to 1")

    async def __call__(self, scene: Scene) -> Student | None:
        """Run the inner attack on votes instead of answers."""
        partners = scene.pool[np.arange(min(len(scene.pool), PARTNERS))]
        buyer = VotingBuyer(scene.buyer, self, partners=partners, seed=scene.seed)
        try:
            return await self.inner(replace(scene, buyer=buyer))
        finally:
            scene.findings["voting"] = buyer.findings()


@dataclass(frozen=True, slots=True)
class AlterationModel:
    """How answers come about, as the voter assumes, and what follows for an image: everything is estimated by EM from the votes.

    The honest answer y of an image is any of K classes. Every answer is altered independently with probability rho, to any other class; the
    honest answer of a near-duplicate is y with probability a, else any other class. So the image's own answer is y with probability
    1 - rho, and each near-duplicate's with q = (1 - rho) a + rho (1 - a) / (K - 1). EM over the unknown y gives rho and q, and with these
    P(y | votes). Images near a boundary, whose variants honestly go over it together, count as altered: on an endpoint that alters
    nothing, rho is the share of those, not 0.
    """

    rate: float = PRIOR_RATE  # rho
    agreement: float = 0.8  # q, of the near-duplicates as told

    def honest(self, *, classes: int) -> float:
        """The honest agreement a of near-duplicates."""
        wrong = self.rate / (classes - 1)
        return float(np.clip((self.agreement - wrong) / max(1 - self.rate - wrong, 1e-9), 0, 1))

    def posterior(self, votes: NDArray[np.int64], *, classes: int) -> NDArray[np.float64]:
        """P(y is what vote j says) per vote (n, variants), 0 for a vote that repeats an earlier one; -1 is a missing vote.

        What is missing to 1 in a row is the probability that no vote is right.
        """
        variants = votes.shape[1]
        same = votes[:, :, None] == votes[:, None, :]
        there = votes >= 0
        counts = (same[:, :, 1:] & there[:, None, 1:]).sum(axis=2)  # of the near-duplicates, for what vote j says
        total = there[:, 1:].sum(axis=1, keepdims=True)
        own = np.where(there[:, :1], np.where(same[:, :, 0], 1 - self.rate, self.rate / (classes - 1)), 1.0)
        other = (1 - self.agreement) / (classes - 1)
        named = own * self.agreement**counts * other ** (total - counts)
        repeated = (same & np.tri(variants, k=-1, dtype=np.bool_)).any(axis=2)
        named = np.where(repeated | ~there, 0, named)
        distinct = (~repeated & there).sum(axis=1)
        unnamed = np.maximum(classes - distinct, 0) * np.where(there[:, 0], self.rate / (classes - 1), 1.0) * other ** total[:, 0]
        return np.asarray(named / np.maximum(named.sum(axis=1) + unnamed, 1e-300)[:, None])

    def fitted(self, votes: NDArray[np.int64], *, classes: int, rounds: int = 20) -> "AlterationModel":
        """The model after some rounds of EM on votes (n, variants)."""
        model, there = self, votes >= 0
        same = votes[:, :, None] == votes[:, None, :]
        counts = (same[:, :, 1:] & there[:, None, 1:]).sum(axis=2)
        for _ in range(rounds):
            posterior = model.posterior(votes, classes=classes)
            altered = (1 - posterior[:, 0])[there[:, 0]]
            rate = (altered.sum() + PRIOR_RATE * PRIOR_ROWS) / (len(altered) + PRIOR_ROWS)
            agreement = ((posterior * counts).sum() + 1) / (there[:, 1:].sum() + 2)
            model = AlterationModel(rate=float(np.clip(rate, 1e-4, 0.9)), agreement=float(np.clip(agreement, 1e-4, 1 - 1e-4)))
        return model


@dataclass(slots=True, eq=False)
class VotingBuyer:
    """A buyer whose answers are votes. Implements `Buyer`."""

    inner: Buyer
    options: Voting
    partners: Images = field(kw_only=True)
    seed: int = field(kw_only=True)
    model: AlterationModel = AlterationModel()
    _votes: NDArray[np.int64] = field(init=False)
    _tally: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self._votes = np.zeros((0, self.options.variants), np.int64)
        self._tally = dict.fromkeys(("images", "repaired", "dropped", "agreement", "altered"), 0.0)

    @property
    def left(self) -> int:
        """Images that the budget pays for, each with its near-duplicates, the last perhaps with fewer."""
        return -(-self.inner.left // self.options.variants)

    @property
    def identities(self) -> int:
        """As the inner buyer's."""
        return self.inner.identities

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:
        """Buy answers for images and their near-duplicates, a query each, and vote."""
        variants = self.options.variants
        asked = variants_of(images, self.partners, variants=variants, seed=self.seed, mirror=self.options.mirror)
        whose = None if identities is None else np.repeat(identities, variants)
        answers = await self.inner.buy(asked, identities=whose)
        if not len(answers):  # the budget was spent to the last query by the purchase before
            return TransferSet.empty(images.shape[1])
        n = -(-len(answers) // variants)
        return self._vote(_filled(answers, asked[: n * variants]), n)

    def findings(self) -> dict[str, float]:
        """What the votes said: shares of the images, and the model's estimates."""
        images = max(self._tally["images"], 1)
        classes = max(int(self._votes.max(initial=0)) + 1, 2)
        return {
            "variants": self.options.variants,
            "images": int(self._tally["images"]),
            "repaired": self._tally["repaired"] / images,
            "dropped": self._tally["dropped"] / images,
            "agreement": self._tally["agreement"] / images,
            "posterior_altered": self._tally["altered"] / images,
            "estimated_rate": self.model.rate,
            "honest_agreement": self.model.honest(classes=classes),
        }

    def _vote(self, answers: TransferSet, n: int) -> TransferSet:
        variants, rows = self.options.variants, np.arange(n)
        usable = (answers.weights > 0).reshape(n, variants)
        votes = np.where(usable, answers.labels.reshape(n, variants), -1)
        self._votes = np.concatenate((self._votes, votes))[-REMEMBERED:]
        classes = max(answers.classes, int(self._votes.max(initial=0)) + 1, 2)
        self.model = self.model.fitted(self._votes, classes=classes)
        same = (votes[:, :, None] == votes[:, None, :]) & usable[:, None, :]
        counts = np.where(usable, same.sum(axis=2), 0)
        winner = counts.argmax(axis=1)  # the first of a tie: the own answer, where it is one
        agreeing = same[rows, winner]
        posterior = self.model.posterior(votes, classes=classes)
        chosen = votes[rows, winner]
        right = np.where(votes == chosen[:, None], posterior, 0).sum(axis=1)
        heard = usable.any(axis=1)
        dropped = heard & (1 - right > self.options.threshold) if self.options.policy == "drop" else np.zeros(n, np.bool_)
        own = answers.rows(rows * variants)
        for name, values in (
            ("images", heard),
            ("repaired", heard & ~dropped & (chosen != votes[:, 0])),
            ("dropped", dropped),
            ("agreement", agreeing.sum(axis=1) / np.maximum(usable.sum(axis=1), 1)),
            ("altered", np.where(usable[:, 0], 1 - posterior[:, 0], 0)),
        ):
            self._tally[name] += float(values.sum())
        return TransferSet(
            images=own.images,
            labels=np.where(heard, chosen, own.labels),
            scores=_mean_scores(answers.scores.reshape(n, variants, -1), agreeing),
            weights=(heard & ~dropped).astype(np.float32),
        )


def _filled(answers: TransferSet, images: Images) -> TransferSet:
    """The same with rows of weight 0 for the images (n, S, S, 3) that the budget ended before."""
    missing = len(images) - len(answers)
    unasked = TransferSet(
        images[len(answers) :], np.zeros(missing, np.int64), np.full((missing, 0), np.nan, np.float32), np.zeros(missing, np.float32)
    )
    return TransferSet.joined([answers, unasked])


def _mean_scores(scores: NDArray[np.float32], agreeing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean over the agreeing variants that told the class (n, variants, classes) -> (n, classes); NaN where none did."""
    told = ~np.isnan(scores) & agreeing[:, :, None]
    total = np.where(told, scores, 0).sum(axis=1)
    return np.where(told.any(axis=1), total / np.maximum(told.sum(axis=1), 1), np.nan).astype(np.float32)
