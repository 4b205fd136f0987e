"""`cloneguard bundle`: a directory that the server loads, complete or not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.bundle import load
from models.manifest import BundleError, verify
from models.packaging import cpu_precision, make_bundle, measure_speed, top1
from tests.models.conftest import MEAN, STD, normalised, pictures

LABELS = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images at different depths."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, pixels in enumerate(pictures(60, 40, seed=5)):
        path = folder / str(i % 3) / ("deeper" if i % 2 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def make(model: Path, out: Path, **changes: Any) -> Any:
    """Make a bundle of the narrow WideConvNet."""
    options: dict[str, Any] = {"name": "toy", "version": "1.0.0", "labels": LABELS, "size": 32, "mean": MEAN, "std": STD}
    return make_bundle(model, out, **(options | changes))


def test_a_bundle_is_served_as_the_network_answers(wide: tuple[nn.Module, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The directory verifies, loads, and gives the torch network's logits; making it prints nothing."""
    network, path = wide
    manifest = make(path, tmp_path / "deep" / "toy", resize="center_crop", crop_fraction=0.875)
    assert verify(tmp_path / "deep" / "toy") == manifest
    assert manifest.default_precision == {"cpu": "fp32", "cuda": "fp32"}
    assert set(manifest.measured["images_per_second"]) == {"fp32"}
    bundle = load(tmp_path / "deep" / "toy", device="cpu")
    bundle.warm_up(max_batch=4)
    images = pictures(4, 32)
    with torch.no_grad():
        np.testing.assert_allclose(bundle.infer(images).logits, network(normalised(images)).numpy(), atol=1e-4)
    np.testing.assert_array_equal(bundle.logits(images), bundle.infer(images).logits)
    assert sorted(file.name for file in (tmp_path / "deep").rglob("*")) == ["bundle.json", "model.onnx", "toy"]
    assert capfd.readouterr() == ("", "")


def test_int8_is_measured_and_chosen_by_what_was_measured(
    wide: tuple[nn.Module, Path], photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Agreement is measured on the half that did not calibrate, and the default follows from it and from the speeds."""
    manifest = make(wide[1], tmp_path / "toy", calibration_images=photographs, quantise=True)
    assert verify(tmp_path / "toy") == manifest
    assert manifest.models == {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    assert manifest.recipe["calibration_images"] == manifest.measured["agreement"]["images"] == 30
    agreement, speeds = manifest.measured["agreement"]["int8"], manifest.measured["images_per_second"]
    assert agreement > 0.8
    faster = np.prod(list(speeds["int8"].values())) > np.prod(list(speeds["fp32"].values()))
    assert manifest.default_precision["cpu"] == ("int8" if agreement >= 0.99 and faster else "fp32")
    assert load(tmp_path / "toy", device="cpu", precision="int8").infer(pictures(3, 32)).logits.shape == (3, 10)
    assert capfd.readouterr() == ("", "")


def test_a_bundle_is_only_overwritten_when_told(wide: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """An existing bundle stays unless `overwrite`; a directory that is no bundle stays in any case; an empty one is used."""
    out = tmp_path / "toy"
    out.mkdir()
    make(wide[1], out)
    with pytest.raises(BundleError, match="is a bundle already: choose another directory"):
        make(wide[1], out, version="2")
    assert verify(out).version == "1.0.0"
    (out / "calibration.npz").touch()
    make(wide[1], out, version="2", overwrite=True)
    assert verify(out).version == "2"
    assert sorted(path.name for path in out.iterdir()) == ["bundle.json", "model.onnx"]

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to my love.txt").touch()
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        make(wide[1], tmp_path / "letters", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "toy"]


def few_images(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "only.png")


def broken_image(folder: Path) -> None:
    for i in range(30):
        Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"no image")


REFUSALS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "name": (None, {"name": "a/b"}, "cannot be described at name"),
    "size": (None, {"size": 0}, "cannot be described at input.size"),
    "labels": (None, {"labels": LABELS[:9]}, "give one label a class"),
    "no folder": (None, {"quantise": True}, "int8 needs a folder of training images"),
    "few images": (few_images, {"quantise": True}, "has 1 JPEG, PNG or WebP images, and calibrating int8 needs at least 20"),
    "broken image": (broken_image, {"quantise": True}, r"broken\.jpg cannot be read as an image: remove it"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_leaves_nothing_behind(case: str, wide: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """Whatever is wrong is one line, and no directory, finished or half, is there afterwards."""
    prepare, options, message = REFUSALS[case]
    folder = tmp_path / "images"
    folder.mkdir()
    if prepare is not None:
        prepare(folder)
        options = options | {"calibration_images": folder}
    with pytest.raises(BundleError, match=message) as caught:
        make(wide[1], tmp_path / "toy", **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_top1_counts_best_logits(wide: tuple[nn.Module, Path], wide_bundle_graph: Path) -> None:
    """The accuracy is the share of rows whose best logit is the true class, over several batches."""
    images = pictures(150, 32)
    with torch.no_grad():
        best = wide[0](normalised(images)).argmax(dim=1).numpy()
    best[:15] = (best[:15] + 1) % 10
    assert top1(wide_bundle_graph, images, best) == pytest.approx(0.9)


def test_every_model_of_a_bundle_is_timed(wide_bundle_graph: Path) -> None:
    """Images a second by precision and batch size, the models in turns."""
    both = {"fp32": wide_bundle_graph.name, "int8": wide_bundle_graph.name}
    speeds = measure_speed(wide_bundle_graph.parent, both, batches=[2])
    assert speeds.keys() == both.keys()
    assert all(speed["2"] > 0 for speed in speeds.values())


@pytest.mark.parametrize(
    ("scores", "int8_speed", "chosen"),
    [
        ({"fp32": 0.91, "int8": 0.9071}, 200.0, "int8"),
        ({"fp32": 0.91, "int8": 0.9069}, 200.0, "fp32"),
        ({"fp32": 0.91, "int8": 0.91}, 90.0, "fp32"),
    ],
)
def test_int8_is_the_default_where_it_is_faster_and_loses_little(scores: dict[str, float], int8_speed: float, chosen: str) -> None:
    """At most 0.3 points, and only for speed."""
    assert cpu_precision(scores, {"fp32": {"1": 100.0, "16": 100.0}, "int8": {"1": int8_speed, "16": int8_speed}}) == chosen
    assert cpu_precision({"fp32": 0.91}, {"fp32": {"1": 100.0}}) == "fp32"


def test_bundling_needs_no_torch() -> None:
    """`cloneguard bundle` runs where only the server is installed."""
    script = "import sys; sys.modules['torch'] = sys.modules['torchvision'] = sys.modules['sympy'] = None; import models.packaging"
    subprocess.run([sys.executable, "-c", script], check=True)
