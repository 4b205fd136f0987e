"""Finding wrong answers by students that were trained without them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from attacker_client.architectures import Plan
from attacker_client.attacks.attack import Draw, Loss
from attacker_client.attacks.denoise import CleaningTrainer, Denoise, Policy, confident_joint, noise_rate
from attacker_client.attacks.standard import Standard
from attacker_client.students import Student, batched_tensor
from attacker_client.training import soft_cross_entropy
from attacker_client.transfer_set import TransferSet
from attacker_client_tests.attacks.scenes import ScriptedBuyer, ShapesPool, by_colour, scene, trainer

pytestmark = pytest.mark.anyio


def noisy(n: int, rate: float) -> tuple[TransferSet, NDArray[np.bool_]]:
    """Shapes with the labels of their colours, and a share of other labels; which ones are wrong."""
    pool, random = ShapesPool(n), np.random.default_rng(1)
    assert pool.classes is not None
    wrong = random.random(n) < rate
    labels = np.where(wrong, (pool.classes + random.integers(1, 4, size=n)) % 4, pool.classes)
    return TransferSet(pool.images, labels, np.full((n, 4), np.nan, np.float32), np.ones(n, np.float32)), wrong


def predictions(truth: NDArray[np.int64], classes: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Of a good student: 0.6 to 0.99 for the truth."""
    sure = random.uniform(0.6, 0.99, size=len(truth))
    found = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    found[np.arange(len(truth)), truth] = sure
    return found.astype(np.float32)


def test_confident_learning_finds_planted_errors() -> None:
    """With predictions that know better, the noise rate and most errors are found, and hardly anything else."""
    random = np.random.default_rng(0)
    truth = random.integers(5, size=2000)
    wrong = random.random(2000) < 0.2
    told = np.where(wrong, (truth + random.integers(1, 5, size=2000)) % 5, truth)
    joint, likely = confident_joint(told, predictions(truth, 5, random))
    assert noise_rate(joint) == pytest.approx(0.2, abs=0.03)
    found = (likely >= 0) & (likely != told)
    assert (found & wrong).sum() > 0.9 * wrong.sum() and (found & ~wrong).sum() == 0


def test_a_class_that_nobody_told_has_no_threshold() -> None:
    """Nothing is counted as a class without a single told label."""
    joint, likely = confident_joint(np.array([0, 0, 1]), np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.3, 0.6, 0.1]], np.float32))
    assert 2 not in likely and joint[:, 2].sum() == 0


class Quick:
    """Trains a linear student on mean colours for real, within a moment, and remembers what it was given."""

    def __init__(self, loss: Loss = soft_cross_entropy) -> None:
        self.loss = loss
        self.given: list[TransferSet] = []

    def epochs_for(self, rows: int) -> int:
        """One, whatever there is."""
        return min(rows, 1)

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None, epochs: int | None = None) -> Student:
        """Fit by full-batch Adam."""
        assert isinstance(data, TransferSet) and start is None and epochs is None
        self.given.append(data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            plan = Plan(size=16, pretrained=False, download=False)
            student = Student("linear", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3, plan, classes=4)
        pixels, targets = batched_tensor(data.images), torch.from_numpy(data.targets(classes=4))
        optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
        for _ in range(120):
            optimizer.zero_grad()
            (self.loss(student(pixels), targets) * torch.from_numpy(data.weights)).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return student

    def with_loss(self, loss: Loss) -> "Quick":
        """Another loss."""
        return Quick(loss)


@pytest.mark.parametrize("policy", ["drop", "relabel", "small-loss"])
async def test_wrong_answers_are_cleaned_out_before_the_final_fit(policy: Policy) -> None:
    """Of 25% wrong labels, the set that the last fit sees has less than half."""
    data, wrong = noisy(240, 0.25)
    findings: dict[str, object] = {}
    kept = Quick()
    options = Denoise(Standard(), policy=policy)
    await CleaningTrainer(kept, options, seed=0, findings=findings).fit(data)
    assert len(kept.given) == 4
    final = kept.given[-1]
    truth = np.where(wrong, -1, data.labels)
    clean = ShapesPool(240).classes
    assert clean is not None and (truth[~wrong] == clean[~wrong]).all()
    used = final.weights > 0
    assert (final.labels != clean)[used].mean() < 0.125
    assert used.mean() > 0.5
    assert findings["estimated_noise_rate"] == pytest.approx(0.25, abs=0.12)


async def test_fresh_answers_are_judged_after_the_first_two_epochs(tmp_path: Path) -> None:
    """In a training that draws as it goes, the current student drops the answers of the highest loss."""
    findings: dict[str, object] = {}
    seen: list[int] = []
    data, _ = noisy(200, 0.3)

    async def draw(epoch: int, _: Student) -> TransferSet:
        seen.append(epoch)
        return data

    await CleaningTrainer(trainer(tmp_path, epochs=2), Denoise(Standard()), seed=0, findings=findings).fit(draw)
    assert not findings and seen == [0, 1]
    await CleaningTrainer(trainer(tmp_path / "longer", epochs=3), Denoise(Standard()), seed=0, findings=findings).fit(draw)
    assert isinstance(findings["dropped"], int) and 0 < findings["dropped"] < 200


async def test_rows_that_did_not_count_still_do_not() -> None:
    """An image without a usable answer has weight 0 before and after."""
    data, _ = noisy(60, 0.2)
    data = replace(data, weights=np.where(np.arange(60) < 10, 0, 1).astype(np.float32))
    kept = Quick()
    await CleaningTrainer(kept, Denoise(Standard(), policy="relabel"), seed=0, findings={}).fit(data)
    assert (kept.given[-1].weights[:10] == 0).all()


async def test_denoise_wraps_an_attack(tmp_path: Path) -> None:
    """The inner attack's student comes out, and the findings say what was cleaned."""
    stage = scene(ScriptedBuyer(by_colour, budget=60), tmp_path, epochs=1)
    student = await Denoise(Standard())(stage)
    assert student is not None and student.classes == 4
    assert stage.findings["denoise"]["rows"] == 60
