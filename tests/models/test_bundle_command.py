"""`cloneguard bundle --backbone` and `python -m models.add_backbone`."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from app.cli import app
from models import backbone_files, torchvision_backbone
from models.add_backbone import add_backbone
from models.backbone import Backbone
from models.backbone_files import open_backbone
from models.beside import is_merged
from models.bundle import Bundle, load
from models.export import export_backbone
from models.manifest import BundleError, digest, verify
from models.onnx_file import open_session
from models.packaging import make_bundle
from tests.models.conftest import MEAN, STD, pictures

LABELS = [f"class {i}" for i in range(10)]


def bundle(model: Path, out: Path, *options: str) -> Any:
    """Run `cloneguard bundle` on the narrow WideConvNet."""
    labels = out.parent / "labels.txt"
    labels.write_text("\n".join(LABELS))
    return CliRunner().invoke(app, ["bundle", str(model), "--labels", str(labels), "--out", str(out), "--size", "32", *options])


def widths(made: Bundle) -> tuple[int, int]:
    """Numbers of features and of the embedding."""
    outputs = made.infer(pictures(2, 32))
    return outputs.features.shape[1], outputs.embedding.shape[1]


def test_every_kind_of_backbone(
    wide: tuple[nn.Module, Path], backbone: tuple[Backbone, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is ours; the recipe states the name and the digest."""
    monkeypatch.setattr(backbone_files, "BUILTIN", backbone[1])
    done = bundle(wide[1], tmp_path / "builtin")
    assert done.exit_code == 0, done.output
    assert "backbone: backbone" in done.output
    assert widths(load(tmp_path / "builtin", device="cpu")) == (32 + 40, 12)
    assert verify(tmp_path / "builtin").recipe["backbone"] == {"name": "backbone", "sha256": digest(backbone[1])}

    done = bundle(wide[1], tmp_path / "none", "--backbone", "none")
    assert "features and embedding are the classifier's own" in done.output
    assert widths(load(tmp_path / "none", device="cpu")) == (32, 32)
    assert verify(tmp_path / "none").recipe["backbone"] is None

    bundle(wide[1], tmp_path / "file", "--backbone", str(backbone[1]))
    assert widths(load(tmp_path / "file", device="cpu")) == (32 + 40, 12)

    random = torchvision_backbone.export_torchvision
    monkeypatch.setattr(torchvision_backbone, "export_torchvision", lambda name, path: random(name, path, weights=None))
    bundle(wide[1], tmp_path / "torchvision", "--backbone", "torchvision:squeezenet1_1")
    assert widths(load(tmp_path / "torchvision", device="cpu")) == (32 + 512, 512)
    assert verify(tmp_path / "torchvision").recipe["backbone"]["name"] == "torchvision:squeezenet1_1"


def test_a_backbone_that_is_none_leaves_nothing_behind(wide: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """A wrong name is one line and no directory."""
    done = bundle(wide[1], tmp_path / "out", "--backbone", str(wide[1]))
    assert isinstance(done.exception, BundleError)
    assert "is not a backbone: export it with" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.txt"]


def test_int8_has_the_backbone_too(wide: tuple[nn.Module, Path], backbone: tuple[Backbone, Path], tmp_path: Path) -> None:
    """Both precisions give both parts."""
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(pictures(40, 32, seed=5)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    done = bundle(wide[1], tmp_path / "out", "--backbone", str(backbone[1]), "--images", str(tmp_path / "images"))
    assert done.exit_code == 0, done.output
    for precision in ("fp32", "int8"):
        assert widths(load(tmp_path / "out", device="cpu", precision=precision)) == (32 + 40, 12)


def test_a_bundle_that_is_there_gets_a_backbone_and_then_another(
    wide: tuple[nn.Module, Path], backbone: tuple[Backbone, Path], tmp_path: Path
) -> None:
    """int8 logits stay as they were, the calibration goes, the weights are stored as float16; a second backbone replaces the first."""
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(pictures(40, 32, seed=5)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    options: dict[str, Any] = {"name": "toy", "version": "1.0.0", "labels": LABELS, "size": 32, "mean": MEAN, "std": STD}
    out = tmp_path / "toy"
    made = make_bundle(wide[1], out, calibration_images=tmp_path / "images", quantise=True, **options)
    (out / "calibration.npz").write_bytes(b"of other features")
    made.with_file(out / "calibration.npz").save(out)
    images, classes = pictures(20, 32, seed=6), np.arange(20, dtype=np.int64) % 10
    before = {file: open_session(out / file).run(["logits"], {"images": images})[0] for file in made.models.values()}

    torch.manual_seed(3)
    export_backbone(Backbone(5, widths=(8, 8, 8), embedding=6), tmp_path / "second.onnx")
    for path, expected in ((backbone[1], (32 + 40, 12)), (tmp_path / "second.onnx", (32 + 32, 6))):
        changed = add_backbone(out, open_backbone(path, "x"), calibration=images, test=(images, classes), version="1.1.0")
        assert verify(out) == changed
        assert changed.version == "1.1.0"
        assert sorted(file.name for file in out.iterdir()) == ["bundle.json", "model.int8.onnx", "model.onnx"]
        assert changed.recipe["backbone"] == {"name": "x", "sha256": digest(path)}
        assert set(changed.measured["test_top1"]) == {"fp32", "int8"}
        for precision in ("fp32", "int8"):
            assert widths(load(out, device="cpu", precision=precision)) == expected
        after = {file: open_session(out / file).run(["logits"], {"images": images})[0] for file in made.models.values()}
        np.testing.assert_array_equal(after["model.int8.onnx"], before["model.int8.onnx"])
        np.testing.assert_allclose(after["model.onnx"], before["model.onnx"], atol=5e-3 * float(np.abs(before["model.onnx"]).max()))
    model = onnx.load(out / "model.onnx")
    assert is_merged(model)
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
