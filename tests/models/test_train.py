"""`python -m models.train`: from image folders to a bundle with a backbone, and again from its checkpoints."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from models import backbone_files, train
from models.backbone import Backbone
from models.beside import is_merged
from models.bundle import load
from models.manifest import BundleError, verify
from models.training import RECIPES, Phase, Recipe
from tests.models.conftest import pictures

TINY = Recipe(
    phases=(Phase(epochs=1, peak_lr=0.1, warmup=0.3, weight_decay=5e-4, cutout_px=8, jitter=0.0),),
    batch=16,
    widths=(8, 8, 8),
    holdout=0.2,
    copies=1,
)


def test_a_finished_run_makes_its_bundle_again(
    backbone: tuple[Backbone, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run doesn't train, and writes the same graphs; without the backbone nothing starts."""
    for i, pixels in enumerate(pictures(96, 32)):
        path = tmp_path / "data" / "toy" / ("test" if i % 4 == 0 else "train") / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    monkeypatch.setitem(RECIPES, "toy", TINY)
    monkeypatch.setattr(backbone_files, "BUILTIN", backbone[1])
    for out in ("first", "second"):
        train.train("toy", tmp_path / "data", tmp_path / out, tmp_path / "checkpoints", seed=0, version="1.0.0")
    assert capsys.readouterr().out.count('"holdout_accuracy"') == 1
    for file in ("model.onnx", "model.int8.onnx"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
        assert is_merged(onnx.load(tmp_path / "first" / file))
    assert verify(tmp_path / "first").recipe["backbone"]["name"] == "backbone"
    outputs = load(tmp_path / "first", device="cpu").infer(np.zeros((1, 32, 32, 3), dtype=np.uint8))
    assert (outputs.logits.shape, outputs.features.shape, outputs.embedding.shape) == ((1, 2), (1, 32 + 40), (1, 12))

    monkeypatch.setattr(backbone_files, "BUILTIN", tmp_path / "absent.onnx")
    with pytest.raises(BundleError, match=r"absent\.onnx is missing"):
        train.train("toy", tmp_path / "data", tmp_path / "third", tmp_path / "checkpoints")
    assert not (tmp_path / "third").exists()
