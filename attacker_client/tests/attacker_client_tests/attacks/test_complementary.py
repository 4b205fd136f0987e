"""Learning from answers that are wrong on purpose."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attacker_client.attacks.complementary import Complementary, CorrectingTrainer, ForwardLoss, estimated
from attacker_client.attacks.standard import Standard
from attacker_client.students import Student
from attacker_client.training import soft_cross_entropy
from attacker_client.transfer_set import TransferSet
from attacker_client_tests.attacks.scenes import ScriptedBuyer, ShapesPool, by_colour, scene, trainer
from attacker_client_tests.attacks.test_denoise import Quick


def told_and_predicted(
    rho: float, *, classes: int = 6, n: int = 3000, skill: float = 0.9, permutation: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Told labels, altered at rate rho, and the predictions of a student that is right as often as `skill`, less sure where it errs."""
    random = np.random.default_rng(0)
    truth = random.integers(classes, size=n)
    wrong = (truth + random.integers(1, classes, size=n)) % classes if permutation is None else permutation[truth]
    told = np.where(random.random(n) < rho, wrong, truth)
    right = random.random(n) < skill
    guess = np.where(right, truth, random.integers(classes, size=n))
    sure = np.where(right, random.uniform(0.5, 0.95, n), random.uniform(0.3, 0.6, n))
    predicted = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    predicted[np.arange(n), guess] = sure
    return told, predicted.astype(np.float32)


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.4, 0.6])
def test_the_rate_is_counted_at_the_anchors(rho: float) -> None:
    """With predictions that are mostly right, rho is found, and T has it off the diagonal."""
    found = estimated(*told_and_predicted(rho))
    assert found.rate == pytest.approx(rho, abs=0.05)
    np.testing.assert_allclose(found.matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found.matrix.diagonal(), 1 - found.rate, atol=1e-6)


def test_one_permutation_of_all_altered_answers_is_recognised() -> None:
    """Where each class is always altered to the same one, C becomes that relabelling; random alterations don't look like one."""
    permutation = np.array([3, 0, 5, 1, 2, 4])
    found = estimated(*told_and_predicted(0.4, permutation=permutation))
    assert found.kind == "keyed" and found.consistency > 0.9
    assert (np.where(np.eye(6, dtype=bool), 0, found.matrix).argmax(axis=1) == permutation).all()
    assert estimated(*told_and_predicted(0.4)).kind == "uniform"
    assert estimated(*told_and_predicted(0.4, permutation=permutation), keyed=False).kind == "uniform"


def test_a_stated_rate_is_believed() -> None:
    """A thief who knows the rate doesn't estimate it."""
    found = estimated(*told_and_predicted(0.2), rate=1.0)
    assert found.rate == 1.0 and (found.matrix.diagonal() == 0).all()


def test_the_corrected_loss_is_the_told_labels_likelihood() -> None:
    """-log sum_y p_y T[y, s], for labels and for scores; without a matrix it is the inner loss."""
    logits, matrix = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0, 0.5, 0.5]]),
    )
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0.2, 0.5, 0.3], [0, 1, 0]])
    expected = -(targets * (logits.softmax(1) @ matrix).log()).sum(1)
    torch.testing.assert_close(ForwardLoss(soft_cross_entropy, matrix)(logits, targets), expected)
    torch.testing.assert_close(ForwardLoss(soft_cross_entropy)(logits, targets), soft_cross_entropy(logits, targets))


def test_a_class_met_later_is_told_as_it_is() -> None:
    """A matrix of fewer classes than the student's leaves the new ones alone."""
    logits, targets = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    loss = ForwardLoss(soft_cross_entropy, torch.tensor([[0.5, 0.5], [0.5, 0.5]]))(logits, targets)
    torch.testing.assert_close(loss, soft_cross_entropy(logits, targets))


def test_a_label_that_only_says_what_an_image_is_not_teaches() -> None:
    """At rho = 1, gradient descent on the loss pushes the told class down and the others up."""
    loss = ForwardLoss(soft_cross_entropy, (1 - torch.eye(4)) / 3)
    logits = torch.zeros(1, 4, requires_grad=True)
    loss(logits, torch.tensor([[0.0, 1.0, 0.0, 0.0]])).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 1] > 0 and (logits.grad[0, [0, 2, 3]] < 0).all()


def test_the_loss_says_the_same_of_itself_in_every_process() -> None:
    """Checkpoints are known by it: no address, every number."""
    loss = ForwardLoss(soft_cross_entropy, torch.eye(2))
    assert repr(loss) == "ForwardLoss(soft_cross_entropy, [[1.0, 0.0], [0.0, 1.0]])"


@pytest.mark.anyio
async def test_a_planted_rate_is_recovered_by_real_training() -> None:
    """Students trained on 30% altered labels find the 30% to within a tenth, and the final one knows the colours."""
    pool, random = ShapesPool(1200), np.random.default_rng(1)
    assert pool.classes is not None
    altered = random.random(1200) < 0.3
    labels = np.where(altered, (pool.classes + random.integers(1, 4, size=1200)) % 4, pool.classes)
    data = TransferSet(pool.images, labels, np.full((1200, 4), np.nan, np.float32), np.ones(1200, np.float32))
    findings: dict[str, object] = {}
    student = await CorrectingTrainer(Quick(), Complementary(Standard()), seed=0, findings=findings).fit(data)
    assert findings["estimated_rate"] == pytest.approx(0.3, abs=0.1)
    assert (student.probabilities(pool.images).argmax(axis=1) == pool.classes).mean() > 0.8


@pytest.mark.anyio
async def test_a_training_that_draws_is_corrected_from_the_third_epoch_on(tmp_path: Path) -> None:
    """The current student's predictions say the rate."""
    findings: dict[str, object] = {}
    images = ShapesPool(80).images
    data = TransferSet(images, by_colour(images).argmax(axis=1), by_colour(images), np.ones(80, np.float32))

    async def draw(_: int, __: Student) -> TransferSet:
        return data

    await CorrectingTrainer(trainer(tmp_path, epochs=2), Complementary(Standard()), seed=0, findings=findings).fit(draw)
    assert not findings
    await CorrectingTrainer(trainer(tmp_path / "longer", epochs=3), Complementary(Standard()), seed=0, findings=findings).fit(draw)
    assert findings["rows"] == 80


@pytest.mark.anyio
async def test_complementary_wraps_an_attack(tmp_path: Path) -> None:
    """The inner attack's student comes out, and the findings say what was estimated."""
    stage = scene(ScriptedBuyer(by_colour, budget=60), tmp_path, epochs=1)
    student = await Complementary(Standard())(stage)
    assert student is not None and student.classes == 4
    assert 0 <= stage.findings["complementary"]["estimated_rate"] <= 1
