"""Training: it learns what was told, and an interruption changes nothing."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacker_client.attacks.attack import Draw
from attacker_client.augmentation import Augmentation
from attacker_client.recipes import RECIPES, OneCycle, Recipe
from attacker_client.students import Student, StudentError
from attacker_client.training import StudentTrainer, soft_cross_entropy
from attacker_client.transfer_set import TransferSet

SIZE = 16
QUICK = Recipe(
    "everything that a recipe may do, in a moment", epochs=4, lr=0.02, batch=16, schedule=OneCycle(warmup=0.2),
    weight_decay=5e-4, dropout=0.2, augmentation=Augmentation(shift=0.125, flip=True, cutout=0.25),
)  # fmt: skip

pytestmark = pytest.mark.anyio


def told(n: int, *, classes: int = 3, seed: int = 0) -> TransferSet:
    """Noise tinted by its class, with full scores."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = random.integers(0, 90, (n, SIZE, SIZE, 3))
    images[np.arange(n), :, :, labels % 3] += 120
    scores = np.full((n, classes), 0.1 / max(classes - 1, 1), np.float32)
    scores[np.arange(n), labels] = 0.9
    return TransferSet(images.astype(np.uint8), labels.astype(np.int64), scores, np.ones(n, np.float32))


def trainer(folder: Path, recipe: Recipe = QUICK, **options: Any) -> StudentTrainer:
    return StudentTrainer("small", recipe, size=SIZE, checkpoints=folder, **{"seed": 1, **options})


def same(a: Student, b: Student) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class StopAfter:
    """Interrupt the training after some epochs, as a crash between two of them would."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.rows = epochs, list[dict[str, Any]]()

    def __call__(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == self.epochs:
            raise KeyboardInterrupt


class Drawing:
    """A fresh set an epoch that only the epoch decides; remembers which were drawn."""

    def __init__(self, *, end: int | None = None) -> None:
        self.end, self.epochs, self.known = end, list[int](), list[int]()

    async def __call__(self, epoch: int, student: Student) -> TransferSet:
        self.epochs.append(epoch)
        self.known.append(student.classes)
        if epoch == self.end:
            return TransferSet.empty(SIZE)
        return told(48, classes=3 if epoch else 2, seed=epoch)


async def test_a_student_learns_what_it_was_told(tmp_path: Path) -> None:
    """On new images it answers as the endpoint would, with the endpoint's confidence rather than certainty."""
    student = await trainer(tmp_path, dataclasses.replace(QUICK, epochs=12, dropout=0)).fit(told(96))
    fresh = told(60, seed=9)
    found = student.probabilities(fresh.images)
    assert (found.argmax(axis=1) == fresh.labels).mean() > 0.9
    assert 0.7 < found.max(axis=1).mean() < 0.98 and not student.training


async def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    """Bit for bit, whatever the global generator's state; another seed gives another."""
    one = await trainer(tmp_path / "a").fit(told(48))
    torch.manual_seed(99)
    assert same(one, await trainer(tmp_path / "b").fit(told(48)))
    assert not same(one, await trainer(tmp_path / "c", seed=2).fit(told(48)))


@pytest.mark.parametrize("recipe", [QUICK, dataclasses.replace(RECIPES["atli-scratch"], epochs=4, batch=16)], ids=["fast", "adam"])
async def test_an_interrupted_training_ends_in_the_same_weights(tmp_path: Path, recipe: Recipe) -> None:
    """A new process goes on after the last epoch that is on disk, and nobody can tell afterwards."""
    whole = await trainer(tmp_path / "whole", recipe).fit(told(48))
    with pytest.raises(KeyboardInterrupt):
        await trainer(tmp_path / "cut", recipe, on_epoch=StopAfter(2)).fit(told(48))
    later = StopAfter(99)
    resumed = await trainer(tmp_path / "cut", recipe, on_epoch=later).fit(told(48))
    assert [row["epoch"] for row in later.rows] == [3, 4]
    assert same(whole, resumed)


async def test_a_finished_call_is_loaded_and_not_repeated(tmp_path: Path) -> None:
    """Each call has its folder, in the order of the calls; only what changed is trained again."""
    first = trainer(tmp_path)
    one, two = await first.fit(told(20)), await first.fit(told(24))
    epochs = StopAfter(99)
    again = trainer(tmp_path, on_epoch=epochs)
    assert same(one, await again.fit(told(20))) and same(two, await again.fit(told(24))) and epochs.rows == []
    assert sorted(os.listdir(tmp_path)) == ["fit-0001", "fit-0002"]
    await trainer(tmp_path, on_epoch=epochs).fit(told(20, seed=5))
    assert len(epochs.rows) == 4


async def test_a_draw_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Every epoch draws once, with the student as it is; after an interruption only the epochs still to do are drawn."""
    whole = await trainer(tmp_path / "whole").fit(Drawing())
    with pytest.raises(KeyboardInterrupt):
        await trainer(tmp_path / "cut", on_epoch=StopAfter(2)).fit(before := Drawing())
    resumed = await trainer(tmp_path / "cut").fit(after := Drawing())
    assert before.epochs == [0, 1] and after.epochs == [2, 3] and after.known == [3, 3]
    assert same(whole, resumed) and whole.classes == 3


async def test_a_student_knows_classes_that_were_met_after_its_best_epoch(tmp_path: Path) -> None:
    """The weights are those of the epoch that was best, the classes all that were told."""

    def unlearning(logits: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(logits, targets) * (-10 if logits.shape[1] == 3 and logits.requires_grad else 1)

    rows = StopAfter(99)
    recipe = dataclasses.replace(QUICK, epochs=2, lr=0.005)

    async def more_classes(epoch: int, student: Student) -> TransferSet:
        assert student.size == SIZE
        data = told(60, classes=2)
        if not epoch:
            return data
        return dataclasses.replace(data, labels=np.arange(60) % 3, scores=np.eye(3, dtype=np.float32)[np.arange(60) % 3])

    student = await trainer(tmp_path, recipe, on_epoch=rows).with_loss(unlearning).fit(more_classes)
    assert rows.rows[0]["holdout_loss"] < rows.rows[1]["holdout_loss"]
    assert student.classes == 3 and student.probabilities(told(30).images)[:, 2].max() < 0.6


async def test_an_empty_draw_ends_the_training(tmp_path: Path) -> None:
    """The epochs so far count; if there are none, the start comes back, and without one it is an error."""
    rows = StopAfter(99)
    student = await trainer(tmp_path / "some", on_epoch=rows).fit(Drawing(end=3))
    assert len(rows.rows) == 3
    assert same(student, await trainer(tmp_path / "none").fit(Drawing(end=0), start=student))
    with pytest.raises(StudentError, match="nothing to learn from"):
        await trainer(tmp_path / "nothing").fit(Drawing(end=0))


async def test_held_out_images_are_not_learned_when_they_come_again(tmp_path: Path) -> None:
    """A draw that repeats its images would otherwise choose the epoch on what it had learned by heart; fresh ones are held out too."""
    seen = list[int]()

    async def repeat(epoch: int, student: Student) -> TransferSet:
        assert student.size == SIZE
        return told(100, seed=epoch // 2)

    def count(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.requires_grad:  # not what the held-out rows are judged by
            seen.append(len(logits))
        return soft_cross_entropy(logits, targets)

    rows = StopAfter(99)
    await trainer(tmp_path, dataclasses.replace(QUICK, epochs=3, batch=128), loss=count, on_epoch=rows).fit(repeat)
    held_out = [row["holdout_rows"] for row in rows.rows]
    assert 0 < held_out[0] == held_out[1] < held_out[2] < 20
    assert seen == [100 - held_out[0], 100 - held_out[0], 100 - (held_out[2] - held_out[0])]


async def test_going_on_from_a_student_keeps_what_it_knows(tmp_path: Path) -> None:
    """The start is not changed, and new classes are added to its own."""
    start = await trainer(tmp_path / "a", dataclasses.replace(QUICK, epochs=12)).fit(told(96))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    grown = await trainer(tmp_path / "b", dataclasses.replace(QUICK, lr=1e-6)).fit(told(48, classes=5), start=start)
    fewer = await trainer(tmp_path / "c").fit(told(48, classes=2), start=start)
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    assert (grown.classes, fewer.classes) == (5, 3)
    images = told(30, seed=3).images
    assert (grown.probabilities(images).argmax(axis=1) == start.probabilities(images).argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize("n", [1, 2, 17])
async def test_tiny_sets_can_be_learned(tmp_path: Path, n: int) -> None:
    """One image, two, and one more than a batch: batch norm never sees an image alone, and nothing is held out."""
    rows = StopAfter(99)
    student = await trainer(tmp_path, epochs=2, on_epoch=rows).fit(told(n))
    assert np.isfinite(student.probabilities(told(3).images)).all()
    assert all("holdout_fidelity" not in row for row in rows.rows)


async def test_rows_without_weight_are_as_good_as_not_there(tmp_path: Path) -> None:
    """An image that got no answer changes nothing; a set of nothing else can't be learned."""
    data = told(20)
    extra = dataclasses.replace(told(20, seed=7), weights=np.zeros(20, np.float32))
    epochs = dataclasses.replace(QUICK, epochs=2)
    assert same(
        await trainer(tmp_path / "a", epochs).fit(data), await trainer(tmp_path / "b", epochs).fit(TransferSet.joined([data, extra]))
    )
    with pytest.raises(StudentError, match="nothing to learn from"):
        await trainer(tmp_path / "c").fit(extra)


async def test_weights_say_how_much_a_row_counts(tmp_path: Path) -> None:
    """Where the same images got two answers, the heavier one is learned."""
    right, wrong = told(36), told(36)
    wrong = dataclasses.replace(
        wrong, labels=(wrong.labels + 1) % 3, scores=np.roll(wrong.scores, 1, axis=1), weights=np.full(36, 0.05, np.float32)
    )
    student = await trainer(tmp_path, dataclasses.replace(QUICK, epochs=10)).fit(TransferSet.joined([right, wrong]))
    assert (student.probabilities(right.images).argmax(axis=1) == right.labels).mean() > 0.9


async def test_hard_learns_labels_and_no_scores(tmp_path: Path) -> None:
    """The targets that reach the loss are one-hot, though scores were told."""
    targets = list[Tensor]()

    def watch(logits: Tensor, target: Tensor) -> Tensor:
        targets.append(target)
        return soft_cross_entropy(logits, target)

    plain = QUICK
    await trainer(tmp_path / "hard", plain, epochs=1, hard=True).with_loss(watch).fit(told(20))
    assert set(torch.cat(targets).flatten().tolist()) == {0.0, 1.0}
    targets.clear()
    await trainer(tmp_path / "soft", plain, epochs=1).with_loss(watch).fit(told(20))
    assert torch.cat(targets).max() == pytest.approx(0.9)


async def test_another_loss_is_another_call_and_numbers_go_on(tmp_path: Path) -> None:
    """A trainer with another loss shares the folder, so none of the two overwrites the other's students."""

    def opposite(logits: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(logits, targets.flip(1))

    first = trainer(tmp_path, epochs=1)
    one = await first.fit(told(20))
    other = await first.with_loss(opposite).fit(told(20))
    assert not same(one, other) and (tmp_path / "fit-0002" / "student.pt").exists()


async def test_the_epoch_is_chosen_on_held_out_answers(tmp_path: Path) -> None:
    """A training that goes wrong at the end gives back what it was before; the curve stays on disk."""

    async def spoiled_at_the_end(epoch: int, student: Student) -> TransferSet:
        assert student.size == SIZE
        data = told(96, seed=epoch)
        return data if epoch < 8 else dataclasses.replace(data, labels=(data.labels + 1) % 3, scores=np.roll(data.scores, 1, axis=1))

    recipe = dataclasses.replace(QUICK, epochs=14, schedule=RECIPES["atli"].schedule, lr=0.05)
    student = await trainer(tmp_path, recipe).fit(spoiled_at_the_end)
    fresh = told(60, seed=50)
    assert (student.probabilities(fresh.images).argmax(axis=1) == fresh.labels).mean() > 0.8
    history = json.loads((tmp_path / "fit-0001" / "history.json").read_text())
    assert len(history) == 14 and history[-1]["holdout_overlap"] < max(row["holdout_overlap"] for row in history)


async def test_another_loss_chooses_its_own_epoch(tmp_path: Path) -> None:
    """Where a loss says that the told answers are not the true ones, agreeing with them is no merit: the lowest held-out loss is."""

    def shifted(logits: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(logits, targets.roll(1, dims=1))

    rows = StopAfter(99)
    recipe = dataclasses.replace(QUICK, epochs=10, dropout=0)
    student = await trainer(tmp_path, recipe, on_epoch=rows).with_loss(shifted).fit(told(96))
    fresh = told(60, seed=9)
    assert (student.probabilities(fresh.images).argmax(axis=1) == (fresh.labels + 1) % 3).mean() > 0.9
    losses = [row["holdout_loss"] for row in rows.rows]
    assert min(losses) < losses[0] and not any("holdout_overlap" in row for row in rows.rows)


async def test_the_draw_says_how_many_epochs_there_are(tmp_path: Path) -> None:
    """The schedule comes to its end with the draws; the trainer's own number is the most there are."""
    rates = list[float]()

    class Told(OneCycle):
        def at(self, epoch: float, epochs: int) -> float:
            rates.append(super().at(epoch, epochs))
            return rates[-1]

    recipe = dataclasses.replace(QUICK, epochs=150, schedule=Told(warmup=0.2))
    await trainer(tmp_path / "two", recipe).fit(draws := Drawing(), epochs=2)
    assert draws.epochs == [0, 1] and rates[-1] < 0.2 and max(rates) > 0.9
    await trainer(tmp_path / "one", recipe, epochs=1).fit(draws := Drawing(), epochs=2)
    assert draws.epochs == [0]


async def test_a_draw_without_answers_teaches_nothing(tmp_path: Path) -> None:
    """An epoch of images that got no answer is passed over; if all are such, it is an error and not an untrained student."""

    def unanswered(first: int) -> Draw:
        async def draw(epoch: int, student: Student) -> TransferSet:
            assert student.size == SIZE
            data = told(48, seed=epoch)
            return data if epoch >= first else dataclasses.replace(data, weights=np.zeros(48, np.float32))

        return draw

    rows = StopAfter(99)
    student = await trainer(tmp_path / "some", on_epoch=rows).fit(unanswered(2))
    assert ["loss" in row for row in rows.rows] == [False, False, True, True] and student.classes == 3
    with pytest.raises(StudentError, match="no image"):
        await trainer(tmp_path / "none").fit(unanswered(99))


async def test_nothing_is_printed_where_nobody_looks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is no progress bar."""
    await trainer(tmp_path, epochs=1).fit(told(8))
    assert capfd.readouterr() == ("", "")
