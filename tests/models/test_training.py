"""Training learns, resumes where it stopped, and exports what it trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models import datasets
from models.datasets import ImageSet
from models.export import OUTPUTS, export
from models.heads import Heads
from models.training import Phase, Recipe, fit, predict, split_holdout
from tests.pictures import jpeg, ship

FIRST = Phase(epochs=2, peak_lr=0.1, warmup=0.3, weight_decay=5e-4, cutout_px=8, jitter=0.0)
RECIPE = Recipe(phases=(FIRST, replace(FIRST, epochs=1, jitter=0.2)), batch=32, widths=(8, 8, 8), holdout=0.2, copies=1, ema_decay=0.5)


def colours(n: int = 240) -> ImageSet:
    """Three classes that anyone can learn: reddish, greenish and bluish noise."""
    random = np.random.default_rng(0)
    classes = np.arange(n, dtype=np.int64) % 3
    images = random.integers(0, 120, (n, 32, 32, 3), dtype=np.uint8)
    images[np.arange(n), :, :, classes] += 100
    return ImageSet(images, classes, ("red", "green", "blue"), "colours", np.arange(n) // 4)


def test_training_learns_an_easy_set(tmp_path: Path) -> None:
    """The best epoch's weights come back in evaluation mode, and they are right about what they never saw."""
    torch.manual_seed(0)
    network, history = fit(colours(), RECIPE, tmp_path)
    _, holdout = split_holdout(colours(), RECIPE)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert (predict(network, holdout.images).argmax(1) == holdout.classes).mean() == max(row["holdout_accuracy"] for row in history) > 0.6


@pytest.mark.parametrize("finished", [1, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int) -> None:
    """Stopped within the first phase or at its end, the resumed run repeats the uninterrupted one."""
    torch.manual_seed(0)
    _, whole = fit(colours(), RECIPE, tmp_path / "whole")
    from models import training  # noqa: PLC0415, patched below

    original, calls = training.predict, 0

    def interrupted(*given: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls > finished:
            raise KeyboardInterrupt
        return original(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "predict", interrupted)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        fit(colours(), RECIPE, tmp_path / "halves")
    monkeypatch.setattr(training, "predict", original)
    _, resumed = fit(colours(), RECIPE, tmp_path / "halves")
    assert [row["epoch"] for row in resumed] == [1, 2, 3]
    assert resumed[:finished] == whole[:finished]
    assert resumed[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=0.05)


def test_another_recipe_does_not_take_over_a_checkpoint(tmp_path: Path) -> None:
    """Half a run of one recipe and half of another is neither."""
    fit(colours(), RECIPE, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        fit(colours(), replace(RECIPE, seed=1), tmp_path)


def test_the_holdout_is_never_trained_on() -> None:
    """The two parts share no image, and together they are the set."""
    fitting, holdout = split_holdout(colours(), RECIPE)
    rows = {image.tobytes() for image in fitting.images} & {image.tobytes() for image in holdout.images}
    assert not rows and not set(fitting.groups) & set(holdout.groups)
    assert len(fitting.images) + len(holdout.images) == 240


def test_frames_of_a_track_are_a_group(tmp_path: Path) -> None:
    """TRACK_FRAME file names; a track's number counts within its class only."""
    for name in ("boat/0_0", "boat/0_1", "boat/1_0", "ship/0_0"):
        path = tmp_path / "signs" / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ship(size=35).save(path)
    assert datasets.load("signs", tmp_path, "train", size=32, tracks=True).groups.tolist() == [0, 0, 1, 2]
    assert datasets.load("signs", tmp_path, "train", size=32).groups.tolist() == [0, 1, 2, 3]


def test_the_exported_graph_is_the_network(tmp_path: Path) -> None:
    """uint8 NHWC in, three outputs in one pass, any batch size, the logits of the torch network."""
    network, _ = fit(colours(), RECIPE, tmp_path)
    export(Heads(network), tmp_path / "model.onnx", size=32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for n in (1, 3, 7):
        images = colours(n * 3).images[:n]
        logits, features, embedding = session.run(OUTPUTS, {"images": images})
        np.testing.assert_allclose(logits, predict(network, images), atol=1e-4)
        assert features.shape[0] == embedding.shape[0] == n


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    """Classes are the sorted folder names; images of any size become squares."""
    for name in ("ship", "boat"):
        (tmp_path / "mine" / "train" / name).mkdir(parents=True)
        for seed in range(2):
            (tmp_path / "mine" / "train" / name / f"{seed}.jpg").write_bytes(jpeg(ship(seed=seed)))
    loaded = datasets.load("mine", tmp_path, "train", size=32)
    assert loaded.names == ("boat", "ship")
    assert loaded.classes.tolist() == [0, 0, 1, 1]
    assert loaded.images.shape == (4, 32, 32, 3)


def test_an_unknown_set_is_one_clear_error(tmp_path: Path) -> None:
    """The message says where a folder was looked for, and which names torchvision has."""
    with pytest.raises(ValueError, match="no folder"):
        datasets.load("imagenet", tmp_path, "train", size=32)
