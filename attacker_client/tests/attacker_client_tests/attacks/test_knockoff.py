"""Knockoff nets: the balanced policy, and the bandit that learns where answers are worth most."""

from pathlib import Path

import numpy as np
import pytest

from attacker_client.attacks.clusters import clusters_of
from attacker_client.attacks.knockoff_adaptive import KnockoffAdaptive, Policy
from attacker_client.attacks.knockoff_random import KnockoffRandom, in_turns
from attacker_client.attacks.rewards import Rewards
from attacker_client.transfer_set import Images, TransferSet

from .scenes import ScriptedBuyer, ShapesPool, scene


def half_grey(n: int = 300) -> ShapesPool:
    """A pool of two classes: 0 is grey noise, of which the endpoint can't say anything, 1 are coloured shapes."""
    pool = ShapesPool(n)
    rng = np.random.default_rng(1)
    grey = np.arange(n) % 2 == 0
    pool.images[grey] = rng.integers(100, 140, size=(grey.sum(), pool.size, pool.size, 1)).repeat(3, axis=3)
    pool.classes = (~grey).astype(np.int64)
    return pool


def coloured(images: list[Images]) -> float:
    """The share of the images that are not grey."""
    return float(np.mean([np.ptp(image, axis=2).max() > 0 for image in images]))


def answers(*rows: list[float]) -> TransferSet:
    """A transfer set of these scores, its images black."""
    scores = np.array(rows, np.float32)
    n = len(rows)
    return TransferSet(np.zeros((n, 16, 16, 3), np.uint8), scores.argmax(axis=1), scores, np.ones(n, np.float32))


@pytest.mark.anyio
async def test_random_takes_as_many_of_each_class(tmp_path: Path) -> None:
    """A pool of 270 images of one class and 10 each of three others gives 10 of each of these to a budget of 60."""
    pool = ShapesPool(300)
    pool.classes = np.repeat([0, 1, 2, 3], [270, 10, 10, 10])
    buyer = ScriptedBuyer(budget=60)
    await KnockoffRandom()(scene(buyer, tmp_path, pool=pool, epochs=1))
    place = {image.tobytes(): row for row, image in enumerate(pool.images)}
    counts = np.bincount(pool.classes[[place[image.tobytes()] for image in buyer.images]])
    assert counts.tolist() == [30, 10, 10, 10]


def test_turns_keep_the_order_within_a_class() -> None:
    """Every class gives its first image of the order, then its second."""
    order = in_turns(np.array([5, 3, 0, 4, 1, 2]), np.array([0, 0, 0, 1, 1, 0]))
    assert order.tolist() == [5, 3, 0, 4, 1, 2]
    assert in_turns(np.array([0, 1, 2, 3]), np.array([7, 7, 7, 9])).tolist() == [0, 3, 1, 2]


@pytest.mark.anyio
@pytest.mark.parametrize("known", [True, False])
async def test_adaptive_comes_to_prefer_what_the_rewards_point_to(tmp_path: Path, known: bool) -> None:  # noqa: FBT001
    """From even odds it goes over to the shapes, which get sure and varied answers, away from grey noise, which gets none.

    With classes it finds their number; without them, its clusters tell noise from shapes.
    """
    pool = half_grey()
    if not known:
        pool.classes = None
    buyer = ScriptedBuyer(budget=120)
    stage = scene(buyer, tmp_path, pool=pool, seed=1, epochs=1)
    await KnockoffAdaptive(rounds=2, batch=12, clusters=4)(stage)
    assert 0.2 < coloured(buyer.images[:12]) < 0.8 or not known
    assert coloured(buyer.images[-40:]) > 0.8
    assert stage.findings["rewards"] == ["certainty", "diversity", "loss"]
    if known:
        best, odds = stage.findings["policy"][0]
        assert best == 1 and odds > 0.8


@pytest.mark.anyio
async def test_adaptive_says_which_reward_labels_do_not_give(tmp_path: Path) -> None:
    """An endpoint that tells labels tells no certainty; the other two rewards go on."""
    stage = scene(ScriptedBuyer(budget=40, tells="labels"), tmp_path, epochs=1)
    await KnockoffAdaptive(rounds=2, batch=10)(stage)
    assert stage.findings["rewards"] == ["diversity", "loss"] and stage.findings["rewards left out"] == ["certainty"]


def test_policy_learns_by_the_gradient_bandits_rule() -> None:
    """H(z) += a (r - r')(1 - pi(z)) for the drawn action, H(y) -= a (r - r') pi(y) for the others, a falling with its draws."""
    policy = Policy([np.array([0, 1]), np.array([2, 3]), np.array([4])], step=2.0)
    policy.learn(np.array([2, 3]), np.array([0.9, 0.7]), 0.5)  # from pi = 1/3 each, advantage 0.3
    h = 2 * 0.3 * np.array([-1 / 3, 2 / 3, -1 / 3])
    pi = np.exp(h) / np.exp(h).sum()
    assert policy.probabilities == pytest.approx(pi)
    policy.learn(np.array([3]), np.array([0.1]), 0.5)  # its second batch: half the step
    h += 2 / 2 * -0.4 * (np.array([0, 1, 0]) - pi)
    assert policy.probabilities == pytest.approx(np.exp(h) / np.exp(h).sum())


def test_policy_draws_no_row_twice_and_ends() -> None:
    """An action that has run out is passed over, and all rows come in the end."""
    policy = Policy([np.array([8]), np.array([5, 6, 7])], step=1.0)
    rng = np.random.default_rng(0)
    assert sorted([*policy.draw(3, rng), *policy.draw(3, rng)]) == [5, 6, 7, 8]
    assert len(policy.draw(3, rng)) == 0


def test_rewards_are_the_papers() -> None:
    """Margins 0.8, 0 and 0.4 scale to 1, 0 and 0.5; rare classes are diverse; the reward is the mean of the kinds."""
    rewards = Rewards(window=10)
    given, usual = rewards.of(answers([0.9, 0.1], [0.5, 0.5], [0.7, 0.3]), None)
    diversity = np.array([0.2, 0.2, 0.0]) / 0.2  # what exceeds the mean answer (0.7, 0.3)
    assert given == pytest.approx((np.array([1, 0, 0.5]) + diversity) / 2, abs=1e-5)
    assert usual == pytest.approx(given.mean())
    common, rare = rewards.of(answers([0.9, 0.1], [0.1, 0.9]), None)[0]
    assert rare > common


def test_clusters_tell_what_looks_different() -> None:
    """Red from blue, and upright stripes from lying ones of the same colour."""
    pool = ShapesPool(80)
    rng = np.random.default_rng(0)
    kinds = np.arange(80) % 4
    stripes = np.where(np.arange(16) // 2 % 2, 30, 220).astype(np.uint8)
    pictures = [np.full((16, 16, 3), (200, 30, 30)), np.full((16, 16, 3), (30, 30, 200)),
                np.tile(stripes[:, None, None], (1, 16, 3)), np.tile(stripes[None, :, None], (16, 1, 3))]  # fmt: skip
    pool.images = np.stack([np.clip(pictures[kind] + rng.integers(-20, 20, (16, 16, 3)), 0, 255) for kind in kinds]).astype(np.uint8)
    groups = clusters_of(pool, np.arange(80), clusters=4, rng=rng)
    assert len({(kind, group) for kind, group in zip(kinds.tolist(), groups.tolist(), strict=True)}) == 4
    assert len(set(groups.tolist())) == 4
