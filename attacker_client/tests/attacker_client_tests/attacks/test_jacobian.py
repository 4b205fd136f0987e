"""Jacobian augmentation: the steps go where the student's logit goes, and the rounds ask there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attacker_client.attacks.jacobian import Jacobian, stepped
from attacker_client.students import batched_tensor

from .scenes import ScriptedBuyer, scene, trainer


@pytest.mark.anyio
async def test_a_step_moves_the_labels_logit_its_way(tmp_path: Path) -> None:
    """A small step along the gradient's sign raises nearly every image's logit of its label, one against it lowers it."""
    stage = scene(ScriptedBuyer(budget=80), tmp_path)
    data = await stage.buyer.buy(stage.pool[np.arange(80)])
    student = await trainer(tmp_path, epochs=4).fit(data)

    def logits(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> torch.Tensor:
        with torch.inference_mode():
            of_all: torch.Tensor = student(batched_tensor(images))
            return of_all.gather(1, torch.from_numpy(data.labels)[:, None])[:, 0]

    surer = stepped(student, data.images, data.labels, step=0.02)
    less_sure = stepped(student, data.images, data.labels, step=-0.02)
    assert (logits(surer) > logits(data.images)).float().mean() > 0.9
    assert (logits(less_sure) < logits(data.images)).float().mean() > 0.9


@pytest.mark.anyio
async def test_rounds_ask_a_step_beside_bought_images(tmp_path: Path) -> None:
    """Half of the budget goes to seeds; each later query differs from one bought before by the step of 26 grey values at most."""
    buyer = ScriptedBuyer(budget=60)
    stage = scene(buyer, tmp_path, epochs=1)
    await Jacobian(rounds=3)(stage)
    assert (stage.findings["seeds"], stage.findings["synthetic images"]) == (30, 30)
    pool = {image.tobytes() for image in stage.pool[np.arange(len(stage.pool))]}
    asked = np.stack(buyer.images).astype(np.int64)
    assert all(image.tobytes() in pool for image in buyer.images[:30])
    for place, known in ((30, 30), (40, 40), (50, 50)):
        for image in asked[place : place + 10]:
            away = np.abs(asked[:known] - image).max(axis=(1, 2, 3))
            assert 0 < away.min() <= 26


@pytest.mark.anyio
async def test_the_reservoir_bounds_a_round(tmp_path: Path) -> None:
    """With rounds of 5 at most, what they can't spend is spent on seeds."""
    stage = scene(ScriptedBuyer(budget=60), tmp_path, epochs=1)
    await Jacobian(rounds=2, reservoir=5)(stage)
    assert (stage.findings["seeds"], stage.findings["synthetic images"]) == (50, 10)
