"""The plain service's model is the server's graph with both ends cut, and nothing else."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.plain_model import classifier_only

MEAN, STD = np.array([0.5, 0.25, 0.125], dtype=np.float32), np.array([0.25, 0.5, 0.2], dtype=np.float32)
SIZE, LABELS = 8, ["ant", "bee"]


def write_graph(path: Path, *, to_nchw: bool = True) -> None:
    """A server's graph in small: uint8 NHWC in, normalised inside, one convolution; logits, features and embedding out."""
    random = np.random.default_rng(0)
    weights = {
        "scale": np.float32(255),
        "mean": MEAN.reshape(1, 3, 1, 1) if to_nchw else MEAN,
        "std": STD.reshape(1, 3, 1, 1) if to_nchw else STD,
        "kernel": random.normal(size=(4, 3 if to_nchw else SIZE, 3, 3)).astype(np.float32),
        "dense": random.normal(size=(4, 2)).astype(np.float32),
        "projection": random.normal(size=(4, 5)).astype(np.float32),
    }
    first = (
        helper.make_node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2])
        if to_nchw
        else helper.make_node("Identity", ["images"], ["first"])
    )
    nodes = [
        first,
        helper.make_node("Cast", ["first"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Sub", ["unit", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normalised"]),
        helper.make_node("Conv", ["normalised", "kernel"], ["map"]),
        helper.make_node("GlobalMaxPool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "dense"], ["logits"]),
        helper.make_node("MatMul", ["features", "projection"], ["embedding"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("logits", 2), ("features", 4), ("embedding", 5))
    ]
    graph = helper.make_graph(nodes, "server", [images], outputs, [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_same_logits_from_normalised_pixels(tmp_path: Path) -> None:
    """Normalising by what was read off the graph and running the rest gives the server's own logits."""
    server = tmp_path / "server.onnx"
    write_graph(server)
    classifier_only(server, tmp_path, labels=LABELS, size=SIZE)
    classifier = json.loads((tmp_path / "classifier.json").read_text())
    assert (classifier["labels"], classifier["size"]) == (LABELS, SIZE)
    np.testing.assert_allclose(classifier["mean"], MEAN, atol=1e-6)
    np.testing.assert_allclose(classifier["std"], STD, atol=1e-6)
    plain = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in plain.get_outputs()] == ["logits"]
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    pixels = (images.astype(np.float32) / 255 - classifier["mean"]) / classifier["std"]
    (found,) = plain.run(None, {plain.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2).astype(np.float32)})
    (expected,) = onnxruntime.InferenceSession(server).run(["logits"], {"images": images})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_other_prologues_are_refused(tmp_path: Path) -> None:
    """A graph whose first nodes aren't a normalisation to NCHW is refused, not measured wrongly."""
    server = tmp_path / "server.onnx"
    write_graph(server, to_nchw=False)
    with pytest.raises(ValueError, match="not a normalisation"):
        classifier_only(server, tmp_path, labels=LABELS, size=SIZE)
