"""Which backbone stands beside a classifier, and what is said where it can't."""

import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn

from models import backbone_files
from models.backbone import Backbone
from models.backbone_files import choose, open_backbone
from models.beside import branch, merge
from models.graph import prepare
from models.manifest import BundleError, digest
from models.onnx_file import open_session
from models.torchvision_backbone import MEAN, STD, export_torchvision
from tests.models.conftest import Export, pictures


def test_ours_a_file_and_none(backbone: tuple[Backbone, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """`builtin` is the file that ships with the package, a path is that file, and both are known by their digest."""
    assert choose("none") is None
    monkeypatch.setattr(backbone_files, "BUILTIN", backbone[1].with_name("photographs.onnx"))
    with pytest.raises(BundleError, match=r"photographs\.onnx is missing from this installation"):
        choose("builtin")
    backbone[1].with_name("photographs.onnx").write_bytes(backbone[1].read_bytes())
    builtin, file = choose("builtin"), choose(str(backbone[1]))
    assert builtin is not None
    assert file is not None
    assert (builtin.name, file.name) == ("photographs", "backbone.onnx")
    assert builtin.sha256 == file.sha256 == digest(backbone[1])


def changed(change: Callable[[onnx.ModelProto], None]) -> Callable[[Path, Path], str]:
    def make(source: Path, target: Path) -> str:
        model = onnx.load(source)
        change(model)
        onnx.save(model, target)
        return str(target)

    return make


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "images"


def drop_embedding(model: onnx.ModelProto) -> None:
    model.graph.output.pop()


def free_sides(model: onnx.ModelProto) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"


def take_bytes(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


REFUSALS: dict[str, tuple[Callable[[Path, Path], str], str]] = {
    "absent": (lambda _, target: str(target), "cannot be read: No such file"),
    "no ONNX file": (lambda _, target: str(target.write_text("a network") and target), "is not an ONNX file"),
    "other input": (changed(rename_input), "is not a backbone: export it with float32 `pixels`"),
    "no embedding": (changed(drop_embedding), "is not a backbone: export it with .* `features` and `embedding`"),
    "no side": (changed(free_sides), "is not a backbone: export it with"),
    "bytes": (changed(take_bytes), "is not a backbone: export it with"),
    "unknown network": (lambda *_: "torchvision:resnet51", "no classification network 'resnet51': try resnet50"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_in_one_line_that_says_what_to_do(case: str, backbone: tuple[Backbone, Path], tmp_path: Path) -> None:
    """A file that isn't a backbone, and a name that isn't a network."""
    make, message = REFUSALS[case]
    with pytest.raises(BundleError, match=message) as caught:
        choose(make(backbone[1], tmp_path / "other.onnx"))
    assert "\n" not in str(caught.value)


def test_torchvision_needs_torch_and_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without either, the line says what to install or to copy."""

    def unreachable(*_: object, **__: object) -> nn.Module:
        raise URLError("Temporary failure in name resolution")

    with monkeypatch.context() as patched:
        patched.setattr(torchvision.models, "get_model", unreachable)
        with pytest.raises(BundleError, match=r"weights of resnet18 cannot be downloaded .*: copy them to .*checkpoints"):
            choose("torchvision:resnet18")
    monkeypatch.setitem(sys.modules, "models.torchvision_backbone", None)
    with pytest.raises(BundleError, match=r"needs torch and torchvision .*: pip install 'cloneguard\[train\]'"):
        choose("torchvision:resnet18")


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet101", 2048), ("squeezenet1_1", 512)])
def test_a_torchvision_network_describes_what_its_last_layer_saw(name: str, width: int, export: Export, tmp_path: Path) -> None:
    """Beside a tiny classifier of 64 pixels; features and embedding are both the pooled penultimate vector at 224 pixels."""
    torch.manual_seed(0)
    export_torchvision(name, tmp_path / "backbone.onnx", weights=None)
    torch.manual_seed(1)
    tiny = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = prepare(export(tiny, "tiny64", size=64), classes=3, size=64, mean=MEAN, std=STD)
    merged = merge(classifier, branch(open_backbone(tmp_path / "backbone.onnx", name).model, 64))
    images = pictures(2, 64)
    _, features, embedding = open_session(merged).run(["logits", "features", "embedding"], {"images": images})
    assert features.shape == (2, 4 + width)
    np.testing.assert_array_equal(features[:, 4:], embedding)

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    seen: list[torch.Tensor] = []
    if name == "squeezenet1_1":  # its last layer is a 1x1 convolution, of which it takes the mean
        network.classifier[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean(dim=(2, 3))))
    else:
        network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    large = nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        network((large - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    np.testing.assert_allclose(embedding, seen[0].numpy(), atol=1e-2 * float(seen[0].abs().max()))
