"""The plain attack, and what all that buy rows of a pool rely on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from attacker_client.attacks.standard import Standard, buy_rows
from attacker_client.recipes import RECIPES
from attacker_client.training import StudentTrainer

from .scenes import SIZE, ScriptedBuyer, ShapesPool, by_colour, scene


@pytest.mark.anyio
async def test_asks_each_image_once_in_an_order_of_the_seed(tmp_path: Path) -> None:
    """A pool smaller than the budget is bought whole, no image twice, in another order for another seed."""
    first, second = ScriptedBuyer(budget=100), ScriptedBuyer(budget=100)
    pool = ShapesPool(50)
    await Standard()(scene(first, tmp_path / "a", pool=pool, seed=1, epochs=1))
    await Standard()(scene(second, tmp_path / "b", pool=pool, seed=2, epochs=1))
    assert len(set(first.asked)) == len(first.asked) == 50
    assert first.asked != second.asked and set(first.asked) == set(second.asked)


@pytest.mark.anyio
async def test_learns_what_the_endpoint_answers(tmp_path: Path) -> None:
    """The student agrees with the endpoint on images it has not seen far more often than chance, from scores as from labels."""
    unseen = ShapesPool(200, seed=99).images
    for tells in ("scores", "labels"):
        small_batches = dataclasses.replace(RECIPES["fast"], batch=16)
        trainer = StudentTrainer("small", small_batches, size=SIZE, checkpoints=tmp_path / tells, seed=0, epochs=5)
        stage = scene(ScriptedBuyer(budget=200, tells=tells), tmp_path)
        student = await Standard()(dataclasses.replace(stage, trainer=trainer))
        agreement = (student.probabilities(unseen).argmax(axis=1) == by_colour(unseen).argmax(axis=1)).mean()
        assert agreement > 0.6, (tells, agreement)


@pytest.mark.anyio
async def test_buys_in_order_until_the_budget_ends(tmp_path: Path) -> None:
    """Row i of the answers is that of row i asked for, over the borders of what is bought at a time."""
    pool = ShapesPool(30)
    rows = np.tile(np.arange(30), 100)[::-1].copy()
    bought = await buy_rows(scene(ScriptedBuyer(budget=29), tmp_path, pool=pool), rows)
    assert len(bought) == 29
    assert np.array_equal(bought.images, pool[rows[:29]])
    everything = await buy_rows(scene(ScriptedBuyer(budget=30), tmp_path, pool=pool), rows)
    assert np.array_equal(everything.images, pool[rows]) and np.array_equal(everything.labels, by_colour(pool[rows]).argmax(axis=1))
