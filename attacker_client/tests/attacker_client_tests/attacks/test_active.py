"""Active learning: uncertainty picks what the student doesn't know, k-center covers what it has not seen."""

from pathlib import Path

import numpy as np
import pytest

from attacker_client.attacks.active import Active, k_center, uncertainty

from .scenes import ScriptedBuyer, scene, trainer


def test_uncertainty_ranks_answers() -> None:
    """Even answers are the least sure; entropy and margin disagree where the rest is spread differently."""
    answers = np.array([[1, 0, 0], [0.6, 0.4, 0], [0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    assert uncertainty(answers, "entropy").argsort().tolist() == [0, 1, 2, 3]
    assert uncertainty(answers, "margin").argsort().tolist() == [0, 2, 1, 3]
    assert uncertainty(answers, "entropy")[3] == pytest.approx(np.log(3))


def test_k_center_covers() -> None:
    """Of five heaps of points, one of them bought, four choices take one of each other heap; more choices take no point twice."""
    rng = np.random.default_rng(0)
    heaps = np.array([[0, 0], [10, 0], [0, 10], [10, 10], [30, 30]], np.float32)
    points = (heaps.repeat(20, axis=0) + rng.normal(0, 0.1, size=(100, 2))).astype(np.float32)
    chosen = k_center(points, heaps[:1], 4)
    assert sorted((chosen // 20).tolist()) == [1, 2, 3, 4]
    assert chosen[0] // 20 == 4  # the furthest first
    assert sorted(k_center(points, heaps[:1], 200).tolist()) == list(range(100))


@pytest.mark.anyio
async def test_uncertainty_buys_what_the_student_of_the_round_before_is_least_sure_of(tmp_path: Path) -> None:
    """No image that was passed over had a higher entropy than one that was bought."""
    buyer = ScriptedBuyer(budget=60)
    stage = scene(buyer, tmp_path, epochs=2)
    await Active(strategy="uncertainty", rounds=2)(stage)
    first = await ScriptedBuyer(budget=30).buy(np.stack(buyer.images[:30]))
    student = await trainer(tmp_path, epochs=2).fit(first)  # from its checkpoint
    pool = stage.pool[np.arange(len(stage.pool))]
    asked = {image.tobytes() for image in buyer.images}
    passed_over = np.stack([image for image in pool if image.tobytes() not in asked])
    bought = uncertainty(student.probabilities(np.stack(buyer.images[30:])), "entropy")
    assert bought.min() >= uncertainty(student.probabilities(passed_over), "entropy").max() - 1e-5


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", ["k-center", "both"])
async def test_rounds_buy_new_images_only(tmp_path: Path, strategy: str) -> None:
    """The whole budget is spent, on images that differ."""
    buyer = ScriptedBuyer(budget=60)
    await Active(strategy="k-center" if strategy == "k-center" else "both", rounds=3)(scene(buyer, tmp_path, epochs=1))
    assert len(set(buyer.asked)) == len(buyer.asked) == 60
