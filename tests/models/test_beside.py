"""A backbone beside a classifier: one graph that gives what both give apart."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.backbone import Backbone
from models.backbone_files import open_backbone
from models.beside import branch, is_merged, merge, without_backbone
from models.export import BackboneDescription
from models.graph import prepare
from models.manifest import BundleError
from models.onnx_file import LARGE, halve_weights, open_session, widen_weights
from models.quantize import quantize
from models.training import MEAN as OUR_MEAN
from models.training import STD as OUR_STD
from tests.models.conftest import MEAN, STD, Export, pictures

OUTPUTS = ["logits", "features", "embedding"]


def small_classifier() -> nn.Module:
    """Six classes from eight features, for images of any size."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))


def described(network: Backbone, images: np.ndarray) -> list[np.ndarray]:
    """Features and embedding by torch, the images resized to 32 pixels as Pillow would."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if pixels.shape[-1] != 32:
        pixels = functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    unit = (pixels / 255 - torch.tensor(OUR_MEAN).view(3, 1, 1)) / torch.tensor(OUR_STD).view(3, 1, 1)
    with torch.no_grad():
        return [found.numpy() for found in BackboneDescription(network)(unit)]


@pytest.mark.parametrize(("size", "opset"), [(32, 17), (48, 17), (64, 18), (20, 17)])
def test_a_merged_graph_gives_what_its_parts_give(size: int, opset: int, backbone: tuple[Backbone, Path], export: Export) -> None:
    """Logits are the classifier's own, features both, the embedding the backbone's, whatever the classifier's size and opset."""
    classifier = prepare(export(small_classifier(), f"small{size}", size=size, opset=opset), classes=6, size=size, mean=MEAN, std=STD)
    merged = merge(classifier, branch(open_backbone(backbone[1], "ours").model, size))
    images = pictures(5, size)
    session = open_session(merged)
    logits, features, embedding = session.run(OUTPUTS, {"images": images})
    alone = open_session(classifier).run(OUTPUTS, {"images": images})
    np.testing.assert_allclose(logits, alone[0], atol=1e-6)
    np.testing.assert_allclose(features[:, :8], alone[1], atol=1e-6)
    theirs = described(backbone[0], images)
    np.testing.assert_allclose(features[:, 8:], theirs[0], atol=5e-3 * float(np.abs(theirs[0]).max()))  # weights are float16 in the file
    np.testing.assert_allclose(embedding, theirs[1], atol=1e-2)
    np.testing.assert_allclose(session.run(["embedding"], {"images": images[2:3]})[0], embedding[2:3], atol=1e-5)
    assert theirs[1].std(axis=0).max() > 0.01, "the images have different embeddings, so the comparison means something"
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("images", "tensor(uint8)", ["N", size, size, 3])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["N", 6]), ("features", ["N", 48]), ("embedding", ["N", 12])]
    assert any(node.op_type == "Resize" for node in merged.graph.node) == (size != 32)


def test_a_backbone_can_be_replaced(wide_bundle_graph: Path, backbone: tuple[Backbone, Path]) -> None:
    """The classifier comes out of a merged graph unchanged, and can be merged again."""
    classifier, extra = onnx.load(wide_bundle_graph), branch(open_backbone(backbone[1], "ours").model, 32)
    merged = merge(classifier, extra)
    assert is_merged(merged)
    assert not is_merged(classifier)
    again = merge(without_backbone(merged), extra)
    images = pictures(3, 32)
    for left, right in zip(
        open_session(merged).run(OUTPUTS, {"images": images}), open_session(again).run(OUTPUTS, {"images": images}), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert len(again.graph.node) == len(merged.graph.node)


def test_both_parts_run_in_int8_and_both_ends_in_float(wide_bundle_graph: Path, backbone: tuple[Backbone, Path], tmp_path: Path) -> None:
    """All convolutions are int8, all dense layers float; the int8 classifier's logits are what they are without a backbone."""
    classifier, extra = onnx.load(wide_bundle_graph), branch(open_backbone(backbone[1], "ours").model, 32)
    learned, images = [pictures(200, 32, seed=2)], pictures(20, 32, seed=3)
    int8 = quantize(classifier, learned)
    merged = merge(int8, quantize(extra, learned))
    logits, features, embedding = open_session(merged).run(OUTPUTS, {"images": images})
    np.testing.assert_array_equal(logits, open_session(int8).run(["logits"], {"images": images})[0])
    plain = open_session(merge(classifier, extra)).run(OUTPUTS, {"images": images})
    assert np.abs(features - plain[1]).mean() < 0.1 * plain[1].std()
    assert (embedding * plain[2]).sum(axis=1).min() > 0.97  # unit vectors: the cosine
    onnx.save(merged, tmp_path / "merged.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(tmp_path / "merged.onnx"), options, providers=["CPUExecutionProvider"])
    ran = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ran.count("QLinearConv") == 14
    assert ran.count("Gemm") + ran.count("FusedGemm") == 3
    assert not {"Conv", "FusedConv", "QGemm", "MaxPool"} & set(ran)


def test_halved_weights_are_half_the_file_and_give_the_same_labels(wide_bundle_graph: Path) -> None:
    """Large weights are float16 in the file; undone, they are float32 initializers again; what float16 cannot hold is left alone."""
    model = onnx.load(wide_bundle_graph)
    images = pictures(50, 32)
    expected = open_session(model).run(["logits"], {"images": images})[0]
    before = len(model.SerializeToString())
    floats = {tensor.name for tensor in model.graph.initializer}
    halve_weights(model)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < 0.6 * before
    found = open_session(model).run(["logits"], {"images": images})[0]
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(found, expected, atol=5e-3 * float(np.abs(expected).max()))
    widen_weights(model)
    assert {tensor.name for tensor in model.graph.initializer} == floats
    np.testing.assert_allclose(open_session(model).run(["logits"], {"images": images})[0], found, atol=1e-6)

    weight = next(tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= LARGE)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), 1e5, dtype=np.float32), weight.name))
    halve_weights(model)
    assert weight.name in {tensor.name for tensor in model.graph.initializer}


def test_a_backbone_that_mixes_its_rows_is_refused(wide_bundle_graph: Path, backbone: tuple[Backbone, Path]) -> None:
    """A backbone exported in training mode, say, would answer by what else is in the batch."""
    model = open_backbone(backbone[1], "ours").model
    (end,) = [node for node in model.graph.node if "embedding" in node.output]
    end.output[0] = "alone"
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["alone"], ["mean"]))
    model.graph.node.append(onnx.helper.make_node("Sub", ["alone", "mean"], ["embedding"]))
    with pytest.raises(BundleError, match=r"rows of embedding are not the same.*: export the backbone in evaluation mode") as caught:
        merge(onnx.load(wide_bundle_graph), branch(model, 32))
    assert "\n" not in str(caught.value)
