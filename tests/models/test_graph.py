"""Any classifier becomes a bundle's graph that answers as the original does, or is refused in one line."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models.graph import prepare
from models.manifest import BundleError
from models.onnx_file import open_session
from tests.models.conftest import MEAN, STD, Export, normalised, pictures, settle

IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class ViewedTwoLayers(nn.Module):
    """Flattens with the batch size that it saw while it was exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(4 * 8 * 8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        logits: torch.Tensor = self.linear(maps.reshape(maps.shape[0], -1))
        return logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, bool, int]] = {
    "resnet18, free batch axis": (torchvision.models.resnet18, 224, True, 17),
    "resnet18, batch of one, opset 13": (torchvision.models.resnet18, 224, False, 13),
    "mobilenet_v3_small, batch of one": (torchvision.models.mobilenet_v3_small, 96, False, 17),
    "squeezenet1_1, opset 18": (torchvision.models.squeezenet1_1, 96, True, 18),
    "softmax at the end": (lambda: nn.Sequential(torchvision.models.mobilenet_v3_small(), nn.Softmax(1)), 96, True, 17),
    "log-softmax at the end": (lambda: nn.Sequential(torchvision.models.mobilenet_v3_small(), nn.LogSoftmax(1)), 96, True, 17),
    "batch of one in a reshape": (ViewedTwoLayers, 32, False, 17),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_rows_are_those_of_the_torch_network(case: str, export: Export) -> None:
    """Logits are the network's own for the same pixels, features what its last layer sees, at any batch size."""
    make, size, free, opset = NETWORKS[case]
    torch.manual_seed(0)
    network = settle(make(), size)
    classifier = network[0] if isinstance(network, nn.Sequential) else network
    images = pictures(5, size)
    seen: list[torch.Tensor] = []
    last = [module for module in classifier.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        expected = classifier(normalised(images)).numpy()
    features = seen[0] if seen[0].ndim == 2 else seen[0].mean(dim=(2, 3))

    path = export(network, case.replace(" ", "_"), size=size, free=free, opset=opset)
    model = prepare(path, classes=expected.shape[1], size=size, mean=MEAN, std=STD)
    session = open_session(model)
    for rows in (slice(0, 1), slice(1, 5)):
        found = session.run(["logits", "features", "embedding"], {"images": images[rows]})
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[0] / scale, expected[rows] / scale, atol=2e-5)
        np.testing.assert_allclose(found[1], features.numpy()[rows], atol=2e-4 * float(features.abs().max()))
        np.testing.assert_array_equal(found[2], found[1])
    assert expected.std(axis=0).max() > 1e-3 * scale, "the images have different answers, so the comparison means something"
    assert model.opset_import[0].version >= 17
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("images", "tensor(uint8)", ["N", size, size, 3])]
    assert [(o.name, o.shape[0]) for o in session.get_outputs()] == [("logits", "N"), ("features", "N"), ("embedding", "N")]


def toy(path: Path, *, shape: Sequence[int | str] = ("N", 3, 8, 8), kind: int = TensorProto.FLOAT, middle: str = "", end: str = "") -> Path:
    """A classifier of 4 classes: average colour, dense layer. `middle` and `end` name one operator more."""
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4) / 10, "weight")
    nhwc = shape[-1] == 3 and shape[1] != 3
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["turned"], perm=[0, 3, 1, 2] if nhwc else [0, 1, 2, 3]),
        helper.make_node("GlobalAveragePool", ["turned"], ["average"]),
        helper.make_node("Flatten", ["average"], ["flat"]),
    ]
    extra = [numpy_helper.from_array(np.zeros((1, 3), dtype=np.float32), "extra")]
    if middle == "Concat":  # with one constant row: only right for a batch of one
        nodes += [helper.make_node("Concat", ["flat", "extra"], ["both"], axis=0), helper.make_node("ReduceSum", ["both", "axis"], ["mid"])]
        extra.append(numpy_helper.from_array(np.array([0]), "axis"))
    elif middle == "centred":
        nodes += [helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0]), helper.make_node("Sub", ["flat", "mean"], ["mid"])]
    else:
        nodes.append(helper.make_node("Identity", ["flat"], ["mid"]))
    nodes.append(helper.make_node("MatMul", ["mid", "weight"], ["dense"]))
    nodes.append(helper.make_node(end or "Identity", ["dense"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], 4])],
        [weight, *extra],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_nhwc_input_is_not_turned(tmp_path: Path) -> None:
    """A classifier that takes (N, H, W, 3) gets the pixels in that order."""
    images = pictures(4, 8)
    model = prepare(toy(tmp_path / "m.onnx", shape=("N", 8, 8, 3)), classes=4, size=8, mean=MEAN, std=STD)
    features = open_session(model).run(["features"], {"images": images})[0]
    np.testing.assert_allclose(features, normalised(images).mean(dim=(2, 3)).numpy(), atol=1e-4)


def test_uint8_input_gets_the_pixels_as_they_are(tmp_path: Path) -> None:
    """A classifier that normalises itself is fed bytes."""
    images = pictures(4, 8)
    model = prepare(toy(tmp_path / "m.onnx", kind=TensorProto.UINT8), classes=4, size=8, **IDENTITY)
    features = open_session(model).run(["features"], {"images": images})[0]
    np.testing.assert_allclose(features, images.mean(axis=(1, 2)), rtol=1e-4)


def test_external_data_is_taken_in(tmp_path: Path) -> None:
    """A model whose weights lie in a second file becomes one file."""
    model = onnx.load(toy(tmp_path / "m.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    prepared = prepare(tmp_path / "m.onnx", classes=4, size=8, **IDENTITY)
    assert not any(tensor.external_data for tensor in prepared.graph.initializer)

    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"external data \(weights.bin\) cannot be read: copy it beside the model"):
        prepare(tmp_path / "m.onnx", classes=4, size=8, **IDENTITY)


def two_inputs(path: Path) -> Path:
    model = onnx.load(toy(path))
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1]))
    onnx.save(model, path)
    return path


def two_outputs(path: Path) -> Path:
    model = onnx.load(toy(path))
    model.graph.output.append(helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["N", 4]))
    onnx.save(model, path)
    return path


def no_dense_layer(path: Path) -> Path:
    model = onnx.load(toy(path))
    model.graph.node[-2].CopyFrom(helper.make_node("Concat", ["mid", "mid"], ["dense"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    onnx.save(model, path)
    return path


def unconvertible(path: Path) -> Path:
    model = onnx.load(toy(path))
    model.opset_import[0].version = 1
    model.graph.node.insert(0, helper.make_node("Crop", ["image"], ["cut"]))
    onnx.save(model, path)
    return path


def text(path: Path) -> Path:
    path.write_text("a picture of a network")
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def huge(path: Path) -> Path:
    toy(path)
    os.truncate(path, 2 * 1024**3 + 1)  # sparse: takes no room on the disk
    return path


REFUSALS: dict[str, tuple[Callable[[Path], Path], dict[str, object], str]] = {
    "absent": (lambda path: path, {}, "cannot be read: No such file"),
    "text": (text, {}, "is not an ONNX file"),
    "empty": (empty, {}, "is not an ONNX file"),
    "over 2 GB": (huge, {}, "is larger than 2 GB"),
    "two inputs": (two_inputs, {}, r"2 inputs \(image, mask\): export it with the image as its only input"),
    "two outputs": (two_outputs, {}, "2 float32 outputs of shape .* export only one"),
    "grey": (lambda path: toy(path, shape=("N", 1, 8, 8)), {}, r"shape \(\?, 1, 8, 8\): export the model for RGB images"),
    "rank 3": (lambda path: toy(path, shape=("N", 3, 8)), {}, "export the model for RGB images"),
    "half precision": (lambda path: toy(path, kind=TensorProto.FLOAT16), {}, "is FLOAT16: export the model in float32"),
    "other size": (toy, {"size": 32}, "takes images of 8x8 pixels, not 32x32"),
    "other labels": (toy, {"classes": 10}, r"0 float32 outputs of shape \(N, 10\).*scores float32\[1, 4\].*give one label a class"),
    "sigmoid": (lambda path: toy(path, end="Sigmoid"), {}, "ends in Sigmoid"),
    "no dense layer": (no_dense_layer, {"classes": 6}, "layer before the class scores is Concat, not a dense one"),
    "batch of one": (lambda path: toy(path, shape=(1, 3, 8, 8), middle="Concat"), {}, "export it with a dynamic batch axis"),
    "rows that mix": (lambda path: toy(path, middle="centred"), {}, "not the same in batches of 1 and 3"),
    "old opset": (unconvertible, {}, "has opset 1 and cannot be converted .*: export it with opset 17"),
    "uint8 and mean": (lambda path: toy(path, kind=TensorProto.UINT8), {"mean": MEAN}, "give mean 0 0 0 and std 1 1 1"),
    "two means": (toy, {"mean": (0.5, 0.5)}, "three finite numbers each"),
    "zero std": (toy, {"std": (1.0, 0.0, 1.0)}, "std must be above 0"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_in_one_line_that_says_what_to_do(case: str, tmp_path: Path) -> None:
    """What cannot be served is refused before anything is written."""
    make, options, message = REFUSALS[case]
    path = make(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=message) as caught:
        prepare(path, **({"classes": 4, "size": 8} | IDENTITY | options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
