"""The composite attack: what is mixed, when it is bought, and what each epoch trains on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from attacker_client.attacks.attack import Draw, Loss, Scene
from attacker_client.attacks.composite import Composite, mix, recipe
from attacker_client.students import Student, build
from attacker_client.transfer_set import TransferSet

from .scenes import SIZE, ScriptedBuyer, ShapesPool, scene


class ListeningTrainer:
    """Calls the draws of some epochs, and keeps what they gave and how many epochs it was told there are."""

    def __init__(self, epochs: Sequence[int]) -> None:
        self.drawn: list[TransferSet] = []
        self.epochs: int | None = None
        self.rows: list[int] = []
        self._epochs = epochs

    def epochs_for(self, rows: int) -> int:
        """As many as there are."""
        self.rows.append(rows)
        return max(self._epochs) + 1

    async def fit(self, data: TransferSet | Draw, *, start: Student | None = None, epochs: int | None = None) -> Student:
        """Draw the epochs until one is empty; the student stays as it was made."""
        assert callable(data) and start is None
        self.epochs = epochs
        student = build("small", classes=4, size=SIZE, seed=0)
        for epoch in self._epochs:
            self.drawn.append(await data(epoch, student))
            if not len(self.drawn[-1]):
                break
        return student

    def with_loss(self, loss: Loss) -> "ListeningTrainer":
        """The loss of no training is none."""
        assert callable(loss)
        return self


def test_a_composite_is_the_formula() -> None:
    """x = p A[i] + (1 - p) A[j], rounded: within half a grey value of it, for two images and for more."""
    pool = ShapesPool(10)
    rows, ratios = np.array([[3, 7], [1, 1]]), np.array([[0.25, 0.75], [0.4, 0.6]])
    mixed = mix(pool, rows, ratios)
    assert np.abs(mixed[0] - (0.25 * pool.images[3] + 0.75 * pool.images[7])).max() <= 0.501
    assert np.array_equal(mixed[1], pool.images[1])
    three = mix(pool, np.array([[0, 4, 9]]), np.array([[0.2, 0.3, 0.5]]))
    assert np.abs(three[0] - (0.2 * pool.images[0] + 0.3 * pool.images[4] + 0.5 * pool.images[9])).max() <= 0.501


def test_ratios_are_the_papers_grid() -> None:
    """p takes all of 0.00, 0.01 ... 0.99 evenly, never 1; the ratios of more images sum to 1 and are even over their simplex."""
    rows, ratios = recipe(7, 20_000, images=2, rng=np.random.default_rng(0))
    percents = np.rint(ratios[:, 0] * 100).astype(int)
    assert np.allclose(ratios[:, 0], percents / 100) and np.allclose(ratios.sum(axis=1), 1)
    counts = np.bincount(percents)
    assert len(counts) == 100 and counts.min() > 120 and counts.max() < 290
    assert set(rows.ravel().tolist()) == set(range(7)) and (rows[:, 0] == rows[:, 1]).any()
    four = recipe(7, 20_000, images=4, rng=np.random.default_rng(0))[1]
    assert four.shape == (20_000, 4) and np.allclose(four.sum(axis=1), 1)
    assert np.allclose(four.var(axis=0), 3 / 80, atol=0.002)  # Dirichlet(1, 1, 1, 1)


@pytest.mark.anyio
async def test_equal_budget_spreads_and_keeps_what_it_bought(tmp_path: Path) -> None:
    """Epoch e of 4 has (e + 1) / 4 of the budget's composites, fresh ones added to the old; later epochs have all of them.

    The training has the epochs of a set as large as the budget, not those of a set of any size.
    """
    buyer, trainer = ScriptedBuyer(budget=60), ListeningTrainer(range(8))
    stage = scene(buyer, tmp_path)
    await Composite(epochs=4)(Scene(stage.pool, buyer, trainer, seed=0))
    assert [len(each) for each in trainer.drawn] == [15, 30, 45, 60, 60, 60, 60, 60]
    assert (trainer.rows, trainer.epochs) == ([60], 8)
    assert np.array_equal(trainer.drawn[5].images[:15], trainer.drawn[0].images)
    assert len(set(buyer.asked)) == 60


@pytest.mark.anyio
async def test_a_short_training_spends_the_budget_too(tmp_path: Path) -> None:
    """Where the training has few epochs half of them draw, and each draws more: what is drawn in the last would hardly be learned."""
    for epochs, drawn in ((6, [20, 40, 60, 60, 60, 60]), (1, [60])):
        buyer, trainer = ScriptedBuyer(budget=60), ListeningTrainer(range(epochs))
        await Composite(epochs=10)(Scene(scene(buyer, tmp_path).pool, buyer, trainer, seed=0))
        assert [len(each) for each in trainer.drawn] == drawn


@pytest.mark.anyio
async def test_paper_budget_trains_on_fresh_ones_and_ends_with_the_budget(tmp_path: Path) -> None:
    """25 new composites an epoch, what is left in the last, and then an empty set; the schedule is told of three epochs."""
    buyer, trainer = ScriptedBuyer(budget=60), ListeningTrainer(range(10))
    await Composite(mode="paper-budget", scale=25 / 1e6)(Scene(scene(buyer, tmp_path).pool, buyer, trainer, seed=0))
    assert [len(each) for each in trainer.drawn] == [25, 25, 10, 0] and trainer.epochs == 3
    assert len(set(buyer.asked)) == 60


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["equal-budget", "paper-budget"])
async def test_a_training_resumed_at_a_later_epoch_gets_the_same(tmp_path: Path, mode: str) -> None:
    """Epoch 2 gets the same set whether or not epochs 0 and 1 were drawn in this run."""
    attack = Composite(mode="equal-budget" if mode == "equal-budget" else "paper-budget", epochs=4, scale=15 / 1e6)
    stage = scene(ScriptedBuyer(budget=60), tmp_path)
    through, resumed = ListeningTrainer([0, 1, 2]), ListeningTrainer([2])
    for trainer in (through, resumed):
        await attack(Scene(stage.pool, ScriptedBuyer(budget=60), trainer, seed=5))
    assert np.array_equal(through.drawn[-1].images, resumed.drawn[-1].images)


def test_options_that_mean_nothing_are_refused() -> None:
    """One image is no composite, and no epoch buys none."""
    for options in ({"images": 1}, {"epochs": 0}, {"scale": 1e-9}):
        with pytest.raises(ValueError, match="composites"):
            Composite(**options)
