"""Recipes do what they say: schedules, decay, views."""

import numpy as np
import pytest
import torch

from attacker_client.augmentation import Augmentation
from attacker_client.recipes import RECIPES, OneCycle, Steps
from attacker_client.students import build


def learning_rates(name: str) -> list[float]:
    recipe = RECIPES[name]
    return [recipe.lr * recipe.schedule.at(epoch, recipe.epochs) for epoch in range(recipe.epochs)]


def test_the_papers_schedules() -> None:
    """The learning rates that the papers give, at the epochs where they change."""
    composite = learning_rates("composite-paper")
    assert len(composite) == 100 and composite[9] == 0.001
    assert [composite[10], composite[99]] == pytest.approx([0.0009, 0.001 * 0.9**9])
    assert learning_rates("standard-paper") == composite
    for name in ("knockoff", "atli"):
        rates = learning_rates(name)
        assert len(rates) == 100 and [rates[59], rates[60]] == pytest.approx([0.01, 0.001])
    scratch = learning_rates("atli-scratch")
    assert len(scratch) == 200 and (scratch[99], scratch[100], scratch[199]) == (0.001, 0.0005, 0.0005)


def test_the_papers_optimizers() -> None:
    """Momentum, L2, dropout and views, as the two papers on mimicking differ."""
    standard, composite, knockoff = RECIPES["standard-paper"], RECIPES["composite-paper"], RECIPES["knockoff"]
    assert (standard.weight_decay, standard.dropout, standard.augmentation.rotation) == (0.0005, 0.2, 15)
    assert (composite.weight_decay, composite.dropout, composite.augmentation) == (0.0, 0.0, Augmentation())
    assert (knockoff.momentum, knockoff.batch, standard.momentum, standard.batch) == (0.5, 64, 0.9, 128)
    assert isinstance(RECIPES["atli-scratch"].optimizer_for(torch.nn.Linear(2, 2)), torch.optim.Adam)


def test_one_cycle_rises_and_falls_to_nothing() -> None:
    """The peak is at the end of the warm-up; the first step already moves."""
    cycle = OneCycle(warmup=0.2)
    rates = [cycle.at(epoch, 100) for epoch in range(100)]
    assert int(np.argmax(rates)) == 20 and rates[20] == 1 and rates[0] > 0 and rates[99] < 0.01
    assert Steps(every=3, factor=0.5).at(5.9, 100) == 0.5


def test_larger_sets_get_fewer_passes_but_more_steps() -> None:
    """Four times the rows take about twice the time; small sets stay below the recipe's epochs; papers' recipes count epochs only."""
    fast = RECIPES["fast"]
    few, many = fast.epochs_for(5_000), fast.epochs_for(20_000)
    assert few == pytest.approx(2 * many, abs=1) and many >= 1
    assert fast.epochs_for(2) == fast.epochs and fast.epochs_for(10**9) == 1
    assert RECIPES["knockoff"].epochs_for(10) == RECIPES["knockoff"].epochs_for(10**6) == 100


def test_weight_decay_spares_norms_and_biases() -> None:
    """What is pulled to zero is matrices and kernels, nothing else, and every parameter is trained once."""
    student = build("small", classes=3, size=16, seed=0)
    matrices, vectors = RECIPES["standard-paper"].optimizer_for(student).param_groups
    assert matrices["weight_decay"] > 0 == vectors["weight_decay"]
    assert min(p.ndim for p in matrices["params"]) > 1 >= max(p.ndim for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(student.parameters()))


def test_no_augmentation_is_the_image_itself() -> None:
    """Not one bit changes."""
    pixels = torch.rand(4, 3, 16, 16)
    assert torch.equal(Augmentation()(pixels, np.random.default_rng(0)), pixels)


def test_a_flip_mirrors_about_half_of_the_images_exactly() -> None:
    """Each view is the image or its mirror image."""
    pixels = torch.rand(64, 3, 16, 16)
    views = Augmentation(flip=True)(pixels, np.random.default_rng(0))
    same = [torch.allclose(view, image, atol=1e-5) for view, image in zip(views, pixels, strict=True)]
    mirrored = [torch.allclose(view, image.flip(-1), atol=1e-5) for view, image in zip(views, pixels, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 16 < sum(mirrored) < 48


def test_a_shift_moves_by_whole_pixels_and_no_further_than_it_says() -> None:
    """A white dot stays a white dot, at most an eighth of the side away, in both directions."""
    pixels = torch.zeros(200, 3, 16, 16)
    pixels[:, :, 8, 8] = 1
    views = Augmentation(shift=0.125)(pixels, np.random.default_rng(0))
    places = [divmod(int(view[0].argmax()), 16) for view in views]
    assert torch.allclose(views.amax(dim=(1, 2, 3)), torch.ones(200), atol=1e-4)
    assert {y for y, _ in places} == {x for _, x in places} == {6, 7, 8, 9, 10}


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(shift=0.1),
        Augmentation(rotation=15),
        Augmentation(flip=True),
        Augmentation(cutout=0.3),
    ],
)
def test_views_are_images_differ_and_repeat(augmentation: Augmentation) -> None:
    """Every option changes the images, within 0..1, and the same generator gives the same views."""
    pixels = torch.rand(32, 3, 16, 16)
    views = augmentation(pixels, np.random.default_rng(3))
    assert views.shape == pixels.shape and views.min() >= 0 and views.max() <= 1 + 1e-6
    assert not torch.equal(views, pixels)
    assert torch.equal(views, augmentation(pixels, np.random.default_rng(3)))
