"""Near-duplicate voting against an endpoint that alters answers."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.attacks.voting import AlterationModel, Voting
from attacker_client.transfer_set import Images, TransferSet
from attacker_client_tests.attacks.scenes import ScriptedBuyer, ShapesPool, by_colour, scene

pytestmark = pytest.mark.anyio


class Ask:
    """An attack that only buys, and keeps what it got."""

    summary: ClassVar[str] = ""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.bought = TransferSet.empty(images.shape[1])
        self.left = -1

    async def __call__(self, scene: Scene) -> None:
        self.left = scene.buyer.left
        self.bought = await scene.buyer.buy(self.images)


def altering(rate: float) -> "type[ScriptedBuyer] | object":
    """The colour recognizer, whose answers are altered to another class for a share of all pixel patterns."""

    def recognize(images: Images) -> NDArray[np.float32]:
        scores = by_colour(images)
        for row, image in enumerate(images):
            draw = hashlib.sha256(b"key" + image.tobytes()).digest()
            if int.from_bytes(draw[:4], "big") < rate * 2**32:
                scores[row] = np.roll(scores[row], 1 + draw[4] % 3)
        return scores

    return recognize


def clear_pictures(n: int) -> tuple[Images, NDArray[np.int64]]:
    """Pictures that the recognizer is sure of, and its honest answers."""
    images = ShapesPool(4 * n).images
    scores = by_colour(images)
    sure = images[scores.max(axis=1) > 0.8][:n]
    assert len(sure) == n
    return sure, by_colour(sure).argmax(axis=1)


async def vote(ask: Ask, checkpoints: Path, *, rate: float, budget: int, **options: object) -> tuple[Scene, ScriptedBuyer]:
    buyer = ScriptedBuyer(altering(rate), budget=budget)  # type: ignore[arg-type]
    stage = scene(buyer, checkpoints)
    await Voting(ask, **options)(stage)  # type: ignore[arg-type]
    return stage, buyer


async def test_voting_repairs_answers_that_were_altered_at_random(tmp_path: Path) -> None:
    """At rate 0.1 five votes leave few of the tenth that is wrong, and the model finds the rate."""
    images, honest = clear_pictures(300)
    ask = Ask(images)
    stage, _ = await vote(ask, tmp_path, rate=0.1, budget=10_000)
    wrong_alone = (altering(0.1)(images).argmax(axis=1) != honest).mean()  # type: ignore[operator]
    wrong_voted = (ask.bought.labels != honest).mean()
    assert wrong_alone > 0.06 and wrong_voted < wrong_alone / 2
    found = stage.findings["voting"]
    assert found["estimated_rate"] == pytest.approx(0.1, abs=0.05)
    assert found["repaired"] == pytest.approx(wrong_alone, abs=0.04)


async def test_a_vote_has_the_mean_scores_of_those_who_agree(tmp_path: Path) -> None:
    """The told scores name the vote's label too, and sum to 1."""
    images, _ = clear_pictures(60)
    ask = Ask(images)
    await vote(ask, tmp_path, rate=0.2, budget=10_000)
    assert (ask.bought.scores.argmax(axis=1) == ask.bought.labels).all()
    np.testing.assert_allclose(ask.bought.scores.sum(axis=1), 1, atol=1e-5)


async def test_a_purchase_that_the_budget_leaves_nothing_for_is_empty(tmp_path: Path) -> None:
    """As after one that took the budget's last query."""
    images, _ = clear_pictures(4)
    ask = Ask(images)
    await vote(ask, tmp_path, rate=0.0, budget=0)
    assert ask.left == len(ask.bought) == 0


async def test_the_budget_pays_for_every_variant(tmp_path: Path) -> None:
    """103 queries are 20 images of 5 variants, and a last one of 3: nothing of the budget is left, and nothing is given beyond it."""
    images, honest = clear_pictures(40)
    ask = Ask(images)
    _, buyer = await vote(ask, tmp_path, rate=0.0, budget=103)
    assert ask.left == 21 and len(ask.bought) == 21
    assert len(set(buyer.asked)) == 103 and buyer.left == 0
    assert (ask.bought.images == images[:21]).all()
    assert ask.bought.weights.all() and ask.bought.labels[20] == honest[20]


async def test_dropping_gives_doubtful_votes_no_weight(tmp_path: Path) -> None:
    """What is dropped is wrong far more often than what is kept."""
    images, honest = clear_pictures(300)
    ask = Ask(images)
    stage, _ = await vote(ask, tmp_path, rate=0.3, budget=10_000, variants=3, policy="drop", threshold=0.3)
    wrong, dropped = ask.bought.labels != honest, ask.bought.weights == 0
    assert stage.findings["voting"]["dropped"] == pytest.approx(dropped.mean())
    assert dropped.sum() >= 10
    assert wrong[dropped].mean() > 2 * wrong[~dropped].mean()


async def test_an_honest_endpoint_is_left_alone(tmp_path: Path) -> None:
    """Where nothing is altered and variants agree, nothing is repaired."""
    images, honest = clear_pictures(60)
    ask = Ask(images)
    stage, _ = await vote(ask, tmp_path, rate=0.0, budget=10_000)
    assert (ask.bought.labels == honest).mean() > 0.98
    assert stage.findings["voting"]["estimated_rate"] < 0.04


@pytest.mark.parametrize(("rate", "agreement"), [(0.05, 1.0), (0.1, 0.9), (0.3, 0.95)])
def test_the_model_recovers_what_votes_were_made_with(rate: float, agreement: float) -> None:
    """EM finds the rate of alteration and the honest agreement from votes alone."""
    random, n, classes = np.random.default_rng(0), 3000, 10
    truth = random.integers(classes, size=(n, 1))
    differs = random.random((n, 5)) > np.array([1, agreement, agreement, agreement, agreement])
    honest = np.where(differs, (truth + random.integers(1, classes, size=(n, 5))) % classes, truth)
    altered = random.random((n, 5)) < rate
    votes = np.where(altered, (honest + random.integers(1, classes, size=(n, 5))) % classes, honest)
    model = AlterationModel().fitted(votes, classes=classes)
    assert model.rate == pytest.approx(rate, abs=0.02)
    assert model.honest(classes=classes) == pytest.approx(agreement, abs=0.02)
    posterior = 1 - model.posterior(votes, classes=classes)[:, 0]
    assert posterior.mean() == pytest.approx((votes[:, :1] != truth).mean(), abs=0.02)  # calibrated


def test_the_posterior_is_bayes_rule() -> None:
    """Own answer 0, one variant says 0 and one says 1, of three classes: by hand."""
    model = AlterationModel(rate=0.2, agreement=0.7)
    named = model.posterior(np.array([[0, 0, 1]]), classes=3)[0]
    zero, one, two = 0.8 * 0.7 * 0.15, 0.1 * 0.15 * 0.7, 0.1 * 0.15 * 0.15
    np.testing.assert_allclose(named, np.array([zero, 0, one]) / (zero + one + two))
