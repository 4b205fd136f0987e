"""The backbone is small, learns both of its uses, and its thief makes near-duplicates and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import backbone_training, code_training
from models.backbone import Backbone
from models.backbone_training import Recipe, contrast, fit
from models.code_training import CodeRecipe, fit_code, margins
from models.datasets import ImageSet
from models.tiny_imagenet import KNOWN, UNSEEN, unseen_classes
from models.views import Thief, near_duplicates
from tests.pictures import smooth_noise

RECIPE = Recipe(epochs=2, batch=16, copies=1, holdout=0.25, ema_decay=0.5, memory=32)
HONEST = Thief(share=0, flipped=0)


def scenes(n: int = 64) -> ImageSet:
    """Distinct pictures of four "classes", whose ids have gaps."""
    images = np.stack([np.asarray(smooth_noise(seed=seed)) for seed in range(n)])
    return ImageSet(images, np.arange(n, dtype=np.int64) % 4 * 3, (), "scenes", np.arange(n))


def test_it_has_fewer_than_three_million_parameters() -> None:
    """As many as one bundle may carry beside its classifier."""
    assert sum(p.numel() for p in Backbone(162).parameters()) < 3_000_000


def test_an_embedding_lies_between_minus_one_and_one() -> None:
    """256 numbers for an image, 960 features."""
    network = Backbone(3).eval()
    logits, embedding = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 3) and embedding.shape == (2, 256) and embedding.abs().max() <= 1
    assert network.describe(torch.randn(2, 3, 32, 32))[1].shape == (2, 960)


def test_without_changes_a_copy_is_the_image() -> None:
    """The one resampling of an unmoved image gives it back."""
    images = torch.rand(12, 3, 32, 32)
    assert torch.allclose(near_duplicates(images, HONEST, np.random.default_rng(0)), images, atol=1e-4)


@pytest.mark.parametrize("change", ["shift", "crop", "angle", "brightness", "contrast", "noise", "blur", "blend"])
def test_every_change_alone_moves_an_image_a_little(change: str) -> None:
    """Each field of Thief does something, and no more than its kind of change."""
    images = torch.from_numpy(scenes(24).images).permute(0, 3, 1, 2).float() / 255
    still = dict.fromkeys(("shift", "crop", "angle", "brightness", "contrast", "noise", "blur", "blend"), 0)
    least = {"noise": 1 / 255, "blur": 0.3 / 32, "blend": 0.03}  # below it these are not drawn
    thief = replace(Thief(share=1, flipped=0), **still | least | {change: getattr(Thief(), change)})
    copies = near_duplicates(images, thief, np.random.default_rng(0))
    quiet = near_duplicates(images, replace(thief, **still | least), np.random.default_rng(0))
    assert copies.shape == images.shape and copies.min() >= 0 and copies.max() <= 1
    assert not torch.allclose(copies, quiet, atol=1e-3)
    assert (copies - images).abs().mean() < 0.25


def test_a_mirrored_copy_is_the_mirror_image() -> None:
    """Left and right change places, nothing else."""
    images = torch.rand(12, 3, 32, 32)
    copies = near_duplicates(images, replace(HONEST, flipped=1), np.random.default_rng(0))
    assert torch.allclose(copies, images.flip(3), atol=1e-4)


def test_contrast_is_least_for_copies_that_agree() -> None:
    """Shuffled pairs cost more than true ones, and look-alikes in memory cost more than strangers."""
    one = torch.nn.functional.normalize(torch.randn(8, 16, generator=torch.manual_seed(0)), dim=1)
    nothing = torch.zeros(0, 16)
    agreeing = contrast(one, one, nothing, temperature=0.1)
    assert agreeing < contrast(one, one.roll(1, 0), nothing, temperature=0.1)
    assert agreeing < contrast(one, one, one + 0.1, temperature=0.1)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch starts from the first one's checkpoint; a finished run trains no more; another recipe is refused."""
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        patched.setattr(backbone_training, "save", _save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(scenes(), RECIPE, tmp_path)
    network, history = fit(scenes(), RECIPE, tmp_path)
    assert [row["epoch"] for row in history] == [1, 2]
    assert not network.training and all(np.isfinite(row["contrast"]) for row in history)
    again, _ = fit(scenes(), RECIPE, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="another recipe"):
        fit(scenes(), replace(RECIPE, temperature=0.2), tmp_path)


def _save_and_stop(path: Path, state: dict[str, object]) -> None:
    torch.save(state, path)
    raise KeyboardInterrupt


def test_the_unseen_classes_are_none_that_cifar10_knows() -> None:
    """Forty of them, the same for everybody."""
    names = [*sorted(KNOWN), *(f"n{i:08d}" for i in range(173))]
    unseen = unseen_classes(names)
    assert len(set(unseen)) == UNSEEN and not KNOWN & set(unseen)
    assert unseen == unseen_classes(names[::-1])


def test_margins_ask_nothing_of_codes_that_are_good_enough() -> None:
    """Equal copies and orthogonal strangers cost next to nothing; a moved copy and a look-alike cost, one in memory too."""
    apart, nothing = torch.eye(4, 16), torch.zeros(0, 16)
    widths = {"near": 0.87, "far": 0.45, "softness": 0.05}
    copies, strangers = margins(apart, apart, nothing, **widths)
    assert copies < 0.2 and strangers < 0.1
    assert margins(apart, apart.roll(1, 0), nothing, **widths)[0] > 5
    assert margins(apart + 0.3, apart + 0.3, nothing, **widths)[1] > 5
    assert margins(apart, apart, apart, **widths)[1] > 5


def test_finishing_the_code_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns, starts again from the first epoch's checkpoint, and trains no more once it is finished."""
    torch.manual_seed(0)
    images, recipe = scenes(48), CodeRecipe(epochs=3, batch=16, memory=16, peak_lr=0.05, ema_decay=0.5)
    classes = np.unique(images.classes, return_inverse=True)[1]
    with monkeypatch.context() as patched:
        patched.setattr(code_training, "save", _save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit_code(Backbone(4), images.images, classes, recipe, tmp_path)
    network = Backbone(4)
    history = fit_code(network, images.images, classes, recipe, tmp_path)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["copies"] < history[0]["copies"] and not network.training
    again = Backbone(4)
    fit_code(again, images.images, classes, recipe, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True))
